// What every guest uses now, for lists: read now and then, as the push carries hosts only.

import { ApiError, type Api } from "../protocol/api";
import { Cell } from "./cell";

export interface GuestUsage {
  cores: number | undefined;
  resident: number | undefined;
}

const READ_EVERY_MS = 5000;

export class Usage {
  /** By guest. */
  readonly guests = new Cell<Map<string, GuestUsage>>(new Map());
  private timer: ReturnType<typeof setTimeout> | undefined;
  private ended = false;

  constructor(private readonly api: Api) {
    void this.read();
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
  }

  private async read(): Promise<void> {
    try {
      const [cores, resident] = await Promise.all(["perigee_guest_cpu_cores", "perigee_guest_memory_resident_bytes"].map((name) => this.api.instant(name)));
      const found = new Map<string, GuestUsage>();
      const of = (guest: string | undefined) => {
        const usage = found.get(guest ?? "") ?? { cores: undefined, resident: undefined };
        found.set(guest ?? "", usage);
        return usage;
      };
      for (const { metric, value } of cores!) of(metric.guest).cores = Number(value[1]);
      for (const { metric, value } of resident!) of(metric.guest).resident = Number(value[1]);
      if (!this.ended) this.guests.set(found);
    } catch (error) {
      // The page says already that the control plane does not answer.
      if (!(error instanceof ApiError)) throw error;
    }
    if (!this.ended) this.timer = setTimeout(() => void this.read(), READ_EVERY_MS);
  }
}
