// Libraries that do what the page's policy (`style-src 'self'; img-src 'self'`) refuses are given another way, as they
// are built. A version that does it differently fails the build.
import type { Plugin } from "vite";

const CHANGES = [
  {
    // A guest's pointer would be an image in a `data:` address; noVNC's other way is a canvas that follows the pointer.
    file: "/@novnc/novnc/core/util/cursor.js",
    asked: "const useFallback = !supportsCursorURIs || isTouchDevice;",
    instead: "const useFallback = true;",
  },
  {
    // Colours beyond the palette would be a style attribute; properties are the script's own.
    file: "/@xterm/xterm/lib/xterm.mjs",
    asked: '_addStyle(t,e){t.setAttribute("style",`${t.getAttribute("style")||""}${e};`)}',
    instead: "_addStyle(t,e){t.style.cssText+=e}",
  },
];

/** Not to be bundled before it is changed. */
export const CHANGED = ["@novnc/novnc", "@xterm/xterm"];

export function withinPolicy(): Plugin {
  return {
    name: "within-policy",
    transform(code, id) {
      const change = CHANGES.find(({ file }) => id.endsWith(file));
      if (!change) return undefined;
      if (!code.includes(change.asked)) throw new Error(`${change.file} has changed: see policy.ts`);
      return { code: code.replace(change.asked, () => change.instead), map: null };
    },
  };
}
