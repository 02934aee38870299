import { expect, test } from "vitest";
import { ApiError } from "../protocol/api";
import { faultOf } from "./faults";

const FIELDS = ["name", "labels"];
const field = (code: string, pointer: string) => faultOf(new ApiError(400, code, "no", "", pointer), FIELDS).field;

test("a refusal is shown beside the field that it is about", () => {
  expect(field("PRG-1002", "/name")).toBe("name");
  expect(field("PRG-1002", "/labels/a")).toBe("labels");
  expect(field("PRG-4001", "")).toBe("name");
});

test("what is about no field that is there is told of the whole form", () => {
  expect(field("PRG-1002", "/mac")).toBe("");
  expect(field("PRG-3003", "")).toBe("");
  expect(field("PRG-5001", "")).toBe("");
});
