// The REST API: a token, a path, a value or a typed failure.

import type { InstantSeries, Page, Problem, RangeSeries } from "./types";

/** Why a call gave nothing. `status` 0: nobody answered. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly requestId: string,
    /** What of the request it is about: a JSON pointer; empty when it is about no one field. */
    readonly pointer = "",
  ) {
    super(message);
  }
}

/** A call that takes longer is given up. */
const PATIENCE_MS = 30_000;

export class Api {
  constructor(
    readonly token: string,
    private readonly fetcher: typeof fetch = (input, init) => fetch(input, init),
  ) {}

  async get<T>(path: string): Promise<T> {
    return (await (await this.call("GET", path)).json()) as T;
  }

  /** An object and its tag, to be given to a change of it. */
  async read<T>(path: string): Promise<{ value: T; tag: string }> {
    const response = await this.call("GET", path);
    return { value: (await response.json()) as T, tag: response.headers.get("etag") ?? "" };
  }

  /** Asks for a change. Of an answer without a body, nothing. `tag`: only if the object is still the one that was read. */
  async send<T>(method: "POST" | "PATCH" | "DELETE", path: string, body?: unknown, tag?: string): Promise<T | undefined> {
    const response = await this.call(method, path, body, tag);
    const text = await response.text();
    return text ? (JSON.parse(text) as T) : undefined;
  }

  private async call(method: string, path: string, body?: unknown, tag?: string): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (tag) headers["if-match"] = tag;
    const sent = body === undefined ? {} : { body: JSON.stringify(body) };
    let response: Response;
    try {
      response = await this.fetcher(path, { method, headers, signal: AbortSignal.timeout(PATIENCE_MS), ...sent });
    } catch {
      throw new ApiError(0, "", "The control plane does not answer.", "");
    }
    if (response.ok) return response;
    const requestId = response.headers.get("x-request-id") ?? "";
    const problem = (await response.json().catch(() => null)) as Partial<Problem & { error: string }> | null;
    const said = problem?.detail ?? problem?.error ?? problem?.title ?? `HTTP ${response.status}`;
    throw new ApiError(response.status, problem?.code ?? "", said, problem?.request_id ?? requestId, problem?.errors?.[0]?.pointer);
  }

  /** Every page of a list, up to `most` objects. */
  async all<T>(path: string, most = 10_000): Promise<T[]> {
    const items: T[] = [];
    let token: string | undefined;
    do {
      const query = `limit=${Math.min(1000, most - items.length)}${token ? `&page_token=${encodeURIComponent(token)}` : ""}`;
      const page = await this.get<Page<T>>(`${path}${path.includes("?") ? "&" : "?"}${query}`);
      items.push(...page.items);
      token = page.next_page_token;
    } while (token && items.length < most);
    return items;
  }

  /**
   * A PromQL expression over a time, in milliseconds since 1970. With `reduce`, of each two steps of that length the
   * least and the greatest value come, at its multiples: no peak is lost between two points.
   */
  async range(query: string, from: number, to: number, step: number, reduce?: number): Promise<RangeSeries[]> {
    const params = new URLSearchParams({ query, start: String(from / 1000), end: String(to / 1000), step: String(step / 1000) });
    if (reduce && reduce > step) params.set("reduce", String(reduce / 1000));
    return (await this.get<{ data: { result: RangeSeries[] } }>(`/api/v1/query_range?${params}`)).data.result;
  }

  /** A PromQL expression at one moment; now by default. */
  async instant(query: string, at?: number): Promise<InstantSeries[]> {
    const params = new URLSearchParams({ query, ...(at ? { time: String(at / 1000) } : {}) });
    return (await this.get<{ data: { result: InstantSeries[] } }>(`/api/v1/query?${params}`)).data.result;
  }
}
