/**
 * One subscriber's view of a process: a bounded queue of events between the process's single guest stream and one
 * reader. It knows nothing of the process; `running-process.ts` fills it and asks it for room.
 */
import { DomainError } from "../../errors.ts";
import type { OutputChannel } from "../../guest/agent.ts";
import type { ProcessEnd } from "../../types.ts";

export type ProcessEvent =
  | { readonly type: "output"; readonly channel: OutputChannel; readonly bytes: Uint8Array }
  | { readonly type: "end"; readonly end: ProcessEnd };

/** Beyond this a subscriber has no room: a process whose subscribers all have none waits. */
const ROOM_BYTES = 256 * 1024;
/** Beyond this a subscriber is cut off: others of the same process read on, and this one may not make them wait. */
export const MAX_LAG_BYTES = 4 * 1024 * 1024;
/** What a queued event costs besides its bytes, so that a flood of tiny ones is bounded too. */
const EVENT_COST_BYTES = 128;

type Outcome = { readonly error: Error | undefined };

export class ProcessSubscription implements AsyncIterableIterator<ProcessEvent> {
  /** Events not yet read, oldest first. */
  #queue: ProcessEvent[] = [];
  #queuedBytes = 0;
  /** Set once: nothing is queued afterwards; readers see it when the queue is empty. */
  #outcome: Outcome | undefined;
  /** The reader that waits for an event. Only ever set while the queue is empty. */
  #reader: { resolve: (result: IteratorResult<ProcessEvent>) => void; reject: (error: Error) => void } | undefined;
  readonly #onProgress: (subscription: ProcessSubscription) => void;

  /** `onProgress` is called whenever the subscriber took something or left. */
  constructor(onProgress: (subscription: ProcessSubscription) => void) {
    this.#onProgress = onProgress;
  }

  get hasRoom(): boolean {
    return this.#queuedBytes < ROOM_BYTES;
  }

  get live(): boolean {
    return this.#outcome === undefined;
  }

  /** Queues an event; cuts the subscriber off with `capacity_exhausted` when it lags too far. */
  push(event: ProcessEvent): void {
    if (this.#outcome) return;
    if (this.#reader) {
      this.#takeReader()?.resolve({ done: false, value: event });
      return;
    }
    if (this.#queuedBytes > MAX_LAG_BYTES) {
      this.finish(
        new DomainError("capacity_exhausted", "This stream reads too slowly: others of the same process are far ahead"),
      );
      return;
    }
    this.#queue.push(event);
    this.#queuedBytes += costOf(event);
  }

  /** No more events; readers get what is queued, then the error if there is one. The first call counts. */
  finish(error?: Error): void {
    if (this.#outcome) return;
    this.#outcome = { error };
    const reader = this.#takeReader();
    if (!reader) return;
    if (error) reader.reject(error);
    else reader.resolve({ done: true, value: undefined });
  }

  /** The reader leaves: what is queued is dropped and the process no longer waits for it. */
  close(): void {
    this.#queue = [];
    this.#queuedBytes = 0;
    this.finish();
    this.#onProgress(this);
  }

  next(): Promise<IteratorResult<ProcessEvent>> {
    const event = this.#queue.shift();
    if (event) {
      this.#queuedBytes -= costOf(event);
      this.#onProgress(this);
      return Promise.resolve({ done: false, value: event });
    }
    if (this.#outcome) {
      const { error } = this.#outcome;
      this.#outcome = { error: undefined };
      return error ? Promise.reject(error) : Promise.resolve({ done: true, value: undefined });
    }
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
    });
  }

  return(): Promise<IteratorResult<ProcessEvent>> {
    this.close();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #takeReader() {
    const reader = this.#reader;
    this.#reader = undefined;
    return reader;
  }
}

function costOf(event: ProcessEvent): number {
  return event.type === "output" ? event.bytes.byteLength + EVENT_COST_BYTES : EVENT_COST_BYTES;
}
