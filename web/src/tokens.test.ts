// The contrasts that the design promises, computed from the tokens themselves (WCAG 2.2, 1.4.3 and 1.4.11).
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const css = readFileSync(new URL("./tokens.css", import.meta.url), "utf8");

function theme(selector: string): Map<string, string> {
  const begin = css.indexOf(`${selector} {`);
  const block = css.slice(begin, css.indexOf("\n}", begin));
  return new Map([...block.matchAll(/--([\w-]+):\s*([^;]+);/g)].map((match) => [match[1]!, match[2]!.trim()]));
}

const dark = theme(":root");
const light = new Map([...dark, ...theme('[data-theme="light"]')]);

/** Relative luminance of an OKLCH colour (https://www.w3.org/TR/css-color-4/#ok-lab). */
function luminance(colour: string): number {
  const [l, c, h] = colour.replace("oklch(", "").replace(")", "").trim().split(/\s+/).map(Number) as [number, number, number];
  const [a, b] = [c * Math.cos((h * Math.PI) / 180), c * Math.sin((h * Math.PI) / 180)];
  const [x, y, z] = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b, l - 0.0894841775 * a - 1.291485548 * b].map((v) => v ** 3) as [number, number, number];
  const rgb = [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z, -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z, -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z];
  const [red, green, blue] = rgb.map((v) => Math.min(1, Math.max(0, v))) as [number, number, number];
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(tokens: Map<string, string>, one: string, other: string): number {
  const [a, b] = [luminance(tokens.get(one)!), luminance(tokens.get(other)!)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}

const grounds = ["void", "bg", "panel", "raised"];
const states = ["ok", "info", "warning", "critical", "unknown", "maint"];

for (const [name, tokens] of [["dark", dark], ["light", light]] as const) {
  test(`${name}: text can be read on every ground and on its own tint`, () => {
    const texts = ["text", "text-2", "text-3", "accent-text", ...states.map((state) => `${state}-text`)];
    const pairs = [...texts.flatMap((text) => grounds.map((ground) => [text, ground])), ...states.map((s) => [`${s}-text`, `${s}-tint`])];
    const steps = [0, 1, 2, 3, 4, 5, 6].map((step) => [`on-heat-${step}`, `heat-${step}`]);
    const poor = [...pairs, ...steps].filter(([a, b]) => contrast(tokens, a!, b!) < 4.5);
    expect(poor).toEqual([]);
  });
  test(`${name}: marks, form borders and focus stand out`, () => {
    const marks = [...states, "accent", "line-3"].flatMap((mark) => ["bg", "panel"].map((ground) => [mark, ground]));
    expect(marks.filter(([a, b]) => contrast(tokens, a!, b!) < 3)).toEqual([]);
  });
}
