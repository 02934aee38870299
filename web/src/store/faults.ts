// Which field of a form a refusal is about.

import type { ApiError } from "../protocol/api";

export interface Fault {
  /** The API's name of the field; empty: it is about no single one that is there. */
  field: string;
  text: string;
}

/** Refusals that are about one field whatever was asked for. */
const BY_CODE: Record<string, string> = { "PRG-4001": "name", "PRG-3003": "image", "PRG-3001": "host" };

/** `fields`: those of the form, by the API's names. */
export function faultOf(error: ApiError, fields: readonly string[]): Fault {
  const named = [error.pointer.split("/")[1] ?? "", BY_CODE[error.code] ?? ""];
  return { field: named.find((field) => fields.includes(field)) ?? "", text: error.message };
}
