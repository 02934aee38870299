// The time, four times a second, while the page can be seen.

import { Cell } from "./cell";

export const now = new Cell<number>(Date.now());

setInterval(() => {
  if (!document.hidden) now.set(Date.now());
}, 250);
