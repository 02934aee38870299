import { expect, test } from "vitest";
import { keysyms } from "./keysym";

test("text becomes keys", () => {
  expect(keysyms("aÉ\r\n\t€😀\u0007").map((key) => key.toString(16))).toEqual(["61", "c9", "ff0d", "ff09", "10020ac", "101f600"]);
});
