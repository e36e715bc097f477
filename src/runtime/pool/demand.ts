/**
 * The recent demand for each template, which the size of the warm pool follows. Its memory is bounded under any load.
 */
export class Demand {
  readonly #windowMs: number;
  readonly #mostCounted: number;
  /** Monotonic times of the newest requests, oldest first, by template. */
  readonly #requests = new Map<string, number[]>();

  constructor(windowMs: number, mostCounted: number) {
    this.#windowMs = windowMs;
    this.#mostCounted = mostCounted;
  }

  note(templateId: string, nowMs: number): void {
    const times = this.#requests.get(templateId) ?? [];
    this.#requests.set(templateId, times);
    times.push(nowMs);
    if (times.length > this.#mostCounted) times.shift();
  }

  /** The templates that were asked for within the window, and how often, up to the most that are counted. */
  counts(nowMs: number): Map<string, number> {
    for (const [templateId, times] of this.#requests) {
      while (times[0] !== undefined && nowMs - times[0] > this.#windowMs) times.shift();
      if (times.length === 0) this.#requests.delete(templateId);
    }
    return new Map([...this.#requests].map(([templateId, times]) => [templateId, times.length]));
  }
}
