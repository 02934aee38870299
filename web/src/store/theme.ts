// Dark or light: as chosen here, else as the system has it.

import { Cell } from "./cell";

export type Theme = "dark" | "light";

const KEY = "perigee.theme";
export const theme = new Cell<Theme>("dark");

export function beginTheme(): void {
  const light = matchMedia("(prefers-color-scheme: light)");
  const chosen = () => localStorage.getItem(KEY) as Theme | null;
  const apply = (next: Theme) => {
    document.documentElement.dataset.theme = next;
    theme.set(next);
  };
  apply(chosen() ?? (light.matches ? "light" : "dark"));
  light.addEventListener("change", () => apply(chosen() ?? (light.matches ? "light" : "dark")));
}

export function switchTheme(): void {
  const next = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem(KEY, next);
  document.documentElement.dataset.theme = next;
  theme.set(next);
}

/** A token's colour as the browser computes it, for canvases. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** The same as #rrggbb, for who does not know the tokens' colour space. */
export function rgb(name: string): string {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true })!;
  pen.fillStyle = colour(name);
  pen.fillRect(0, 0, 1, 1);
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data;
  return `#${[red, green, blue].map((part) => part!.toString(16).padStart(2, "0")).join("")}`;
}
