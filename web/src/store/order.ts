// The order of a list's rows.

export type Value = string | number | undefined;

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** `node2` before `node10`. */
export const byName = (a: string, b: string) => collator.compare(a, b);

/** In the order of their values: numbers by size, text as people count (`hv-9` before `hv-10`), what is unknown last. */
export function ordered<Row>(rows: Row[], value: (row: Row) => Value, falling: boolean): Row[] {
  const keyed = rows.map((row) => ({ row, value: value(row) }));
  const way = falling ? -1 : 1;
  return keyed
    .sort((a, b) => {
      if (a.value === undefined || b.value === undefined) return Number(a.value === undefined) - Number(b.value === undefined);
      if (typeof a.value === "number" && typeof b.value === "number") return way * (a.value - b.value);
      return way * collator.compare(String(a.value), String(b.value));
    })
    .map(({ row }) => row);
}

/**
 * Rows keep their places while somebody points at them: those that were there as they were, then those that are new.
 * `moved` counts those that would lie elsewhere.
 */
export function kept<Row extends { key: string }>(held: string[], fresh: Row[]): { rows: Row[]; moved: number } {
  const left = new Map(fresh.map((row) => [row.key, row]));
  const rows: Row[] = [];
  for (const key of held) {
    const row = left.get(key);
    if (row) rows.push(row);
    left.delete(key);
  }
  rows.push(...left.values());
  return { rows, moved: rows.filter((row, place) => row !== fresh[place]).length };
}
