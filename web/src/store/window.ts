// Which rows of a long list are drawn: those that can be seen, and some beside them.

export interface Window {
  first: number;
  count: number;
  /** Pixels of the rows that are left out above and below. */
  before: number;
  after: number;
}

/** Rows drawn beyond each edge, so that a scroll does not show what is not there yet. */
const BESIDE = 8;

/**
 * Of `total` rows of `row` pixels each, what shows in `height` pixels. `scrolled`: how far the list's first row lies
 * above the upper edge; below 0 while it lies under it.
 */
export function windowOf(total: number, row: number, scrolled: number, height: number): Window {
  const clamp = (place: number) => Math.min(total, Math.max(0, place));
  const first = clamp(Math.floor(scrolled / row) - BESIDE);
  const end = Math.max(first, clamp(Math.ceil((scrolled + height) / row) + BESIDE));
  return { first, count: end - first, before: first * row, after: (total - end) * row };
}

/** How much further to scroll so that a row is seen whole; 0 when it is. `head`: pixels covered at the upper edge. */
export function reach(place: number, row: number, scrolled: number, height: number, head: number): number {
  const top = place * row - scrolled;
  if (top < head) return top - head;
  return Math.max(0, top + row - height);
}
