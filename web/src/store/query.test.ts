import { expect, test } from "vitest";
import { fits, terms, tooMuch, written } from "./query";

const rows = [
  { text: "web-1", fields: { status: "running", host: "hv-1", cpu: 81, role: "web" } },
  { text: "web-2", fields: { status: "stopped", host: "hv-2", cpu: undefined, role: "web" } },
  { text: "db", fields: { status: "running", host: "hv-1", cpu: 3 } },
];
const found = (query: string) => rows.filter((row) => fits(row, terms(query))).map((row) => row.text).join(" ");

test("words, fields, numbers, and what must not be", () => {
  const answers = ["", "WEB", "hv-1", "status:run", "status:unning", "-status:run", "host:hv-1 -web", "cpu>80", "cpu<80", "-cpu>80", "role:web web-2", "colour:red", "status:"].map((query) => `${query} = ${found(query)}`);
  expect(answers).toEqual([
    " = web-1 web-2 db",
    "WEB = web-1 web-2",
    "hv-1 = ",
    "status:run = web-1 db",
    "status:unning = ",
    "-status:run = web-2",
    "host:hv-1 -web = db",
    "cpu>80 = web-1",
    "cpu<80 = db",
    "-cpu>80 = web-2 db",
    "role:web web-2 = web-2",
    "colour:red = ",
    "status: = web-1 web-2 db",
  ]);
});

test("a filter that matches nothing names the term to drop", () => {
  expect(written(tooMuch(rows, terms("web status:running cpu<1"))!)).toBe("cpu<1");
  expect(tooMuch(rows, [])).toBeUndefined();
});
