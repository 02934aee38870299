// The columns of a list: what stands above them, and by what they are ordered.

import type { Found } from "./query";
import type { Value } from "./order";

/** A row of a list; `key` tells it apart, `open` is the address of its page. */
export interface ListRow {
  key: string;
  open: string;
  found: Found;
}

export interface Column<Row> {
  /** As in the address; columns without a name are not ordered by. */
  name: string;
  title: string;
  unit?: string;
  /** Pixels; without them what is left. Small screens take three fifths of them, or `narrow`. */
  width?: number;
  narrow?: number;
  numeric?: boolean;
  /** Not on small screens. */
  wide?: boolean;
  value?: (row: Row) => Value;
}
