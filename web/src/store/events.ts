// The audit events of the last day, followed as they come. The list is oldest first and is asked for by number, so the
// day's first event is searched for once; after that only what is new is read.

import type { Api } from "../protocol/api";
import type { AuditEvent, Page } from "../protocol/types";

/** So many are read at once. */
const PAGE = 500;
/** More would be a blur on the time line: the newest stay. */
const EVENTS_MAX = 5000;

/** The number after which no event is older than `since`, within a page. `first` gives the first event after a number. */
export async function dayBegins(first: (after: number) => Promise<AuditEvent | undefined>, since: number): Promise<number> {
  const old = async (after: number) => {
    const found = await first(after);
    return found && Date.parse(found.at) < since ? found.seq : undefined;
  };
  let low = 0;
  let step = PAGE;
  for (let next = await old(step); next !== undefined; next = await old(low + step)) {
    low = next;
    step *= 4;
  }
  let high = low + step;
  while (high - low > PAGE) {
    const middle = Math.floor((low + high) / 2);
    const next = await old(middle);
    if (next === undefined) high = middle;
    else low = next;
  }
  return low;
}

export class EventLog {
  private events: AuditEvent[] = [];
  private after: number | undefined;
  private reading: Promise<AuditEvent[]> | undefined;

  constructor(private readonly api: Api) {}

  /** Everything since, oldest first. Who asks while it is read gets the same answer. */
  read(since: number): Promise<AuditEvent[]> {
    this.reading ??= this.follow(since).finally(() => (this.reading = undefined));
    return this.reading;
  }

  private async follow(since: number): Promise<AuditEvent[]> {
    this.after ??= await dayBegins(async (after) => (await this.page(after, 1)).items[0], since);
    for (let full = true; full; ) {
      const { items } = await this.page(this.after, PAGE);
      this.events.push(...items);
      this.after = items[items.length - 1]?.seq ?? this.after;
      full = items.length === PAGE;
    }
    const begin = this.events.findIndex((event) => Date.parse(event.at) >= since);
    this.events = (begin < 0 ? [] : this.events.slice(begin)).slice(-EVENTS_MAX);
    return this.events;
  }

  private page(after: number, limit: number): Promise<Page<AuditEvent>> {
    return this.api.get<Page<AuditEvent>>(`/api/v1/events?after=${after}&limit=${limit}`);
  }
}
