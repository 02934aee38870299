// A value that others watch. Svelte reads it as a store; nothing here knows Svelte.

export class Cell<T> {
  private readonly watchers = new Set<(value: T) => void>();

  constructor(private held: T) {}

  get value(): T {
    return this.held;
  }

  set(value: T): void {
    this.held = value;
    for (const watcher of this.watchers) watcher(value);
  }

  /** Tells the value now and at each change. */
  subscribe(watcher: (value: T) => void): () => void {
    this.watchers.add(watcher);
    watcher(this.held);
    return () => void this.watchers.delete(watcher);
  }
}
