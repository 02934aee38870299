// What a filter says: words that the text must contain, `field:begin of value`, `field>number`, and a minus before what must not be.

export interface Term {
  /** Without one the text is searched. */
  field: string;
  is: ":" | ">" | "<";
  value: string;
  not: boolean;
}

/** What can be found of a row. Fields never match words without a field. */
export interface Found {
  text: string;
  fields: Record<string, string | number | undefined>;
}

export function terms(query: string): Term[] {
  return query
    .toLowerCase()
    .split(/\s+/)
    .map((word) => {
      const [, minus, field, is, value] = /^(-?)(?:([\w.-]*\w)([:<>]))?(.*)$/.exec(word)!;
      return { field: field ?? "", is: (is ?? ":") as Term["is"], value: value ?? "", not: minus === "-" };
    })
    .filter((term) => term.value !== "");
}

export function fits(found: Found, all: Term[]): boolean {
  return all.every((term) => one(found, term) !== term.not);
}

function one(found: Found, { field, is, value }: Term): boolean {
  if (field === "") return found.text.toLowerCase().includes(value);
  const held = found.fields[field];
  if (held === undefined) return false;
  // From the beginning of one of its words: `connected` is not `disconnected`.
  if (is === ":") return String(held).toLowerCase().split(/[\s,]+/).some((word) => word.startsWith(value));
  return is === ">" ? Number(held) > Number(value) : Number(held) < Number(value);
}

/** The term without which most would match again; what a filter that matches nothing should drop. */
export function tooMuch(rows: Found[], all: Term[]): Term | undefined {
  const left = (term: Term) => rows.filter((row) => fits(row, all.filter((other) => other !== term))).length;
  return all.map((term) => ({ term, count: left(term) })).sort((a, b) => b.count - a.count)[0]?.term;
}

export function written(term: Term): string {
  return `${term.not ? "-" : ""}${term.field ? term.field + term.is : ""}${term.value}`;
}
