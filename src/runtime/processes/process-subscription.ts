/**
 * A process subscription is one subscriber's view of a process: a bounded queue of events between the process's single
 * guest stream and one reader. The subscription does not know the process; `running-process.ts` fills it and asks it
 * for room.
 */
import { DomainError } from "../../errors.ts";
import type { OutputChannel } from "../../guest/agent.ts";
import type { ProcessEnd } from "../../types.ts";

export type ProcessEvent =
  | { readonly type: "output"; readonly channel: OutputChannel; readonly bytes: Uint8Array }
  | { readonly type: "end"; readonly end: ProcessEnd };

/** Beyond this a subscriber has no room. A process waits while none of its subscribers has room. */
const roomBytes = 256 * 1024;
/** Beyond this a subscriber is cut off, so that it does not make the other subscribers of the process wait. */
export const maxLagBytes = 4 * 1024 * 1024;
/** Counted for each queued event besides its bytes, so that a flood of tiny events is bounded too. */
const eventCostBytes = 128;

type Outcome = { readonly error: Error | undefined };

export class ProcessSubscription implements AsyncIterableIterator<ProcessEvent> {
  /** Events not yet read, oldest first. */
  #queue: ProcessEvent[] = [];
  #queuedBytes = 0;
  /** Set once. Nothing is queued afterwards, and readers see the outcome when the queue is empty. */
  #outcome: Outcome | undefined;
  /** The reader that waits for an event; set only while the queue is empty. */
  #reader: { resolve: (result: IteratorResult<ProcessEvent>) => void; reject: (error: Error) => void } | undefined;
  readonly #onProgress: (subscription: ProcessSubscription) => void;

  /** @param onProgress called when the subscriber took an event or left */
  constructor(onProgress: (subscription: ProcessSubscription) => void) {
    this.#onProgress = onProgress;
  }

  get hasRoom(): boolean {
    return this.#queuedBytes < roomBytes;
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
    if (this.#queuedBytes > maxLagBytes) {
      this.finish(
        new DomainError("capacity_exhausted", "This stream reads too slowly: others of the same process are far ahead"),
      );
      return;
    }
    this.#queue.push(event);
    this.#queuedBytes += costOf(event);
  }

  /** Ends the events: readers get those that are queued, then the error if there is one. Only the first call counts. */
  finish(error?: Error): void {
    if (this.#outcome) return;
    this.#outcome = { error };
    const reader = this.#takeReader();
    if (!reader) return;
    if (error) reader.reject(error);
    else reader.resolve({ done: true, value: undefined });
  }

  /** The reader leaves: its queued events are dropped, and the process no longer waits for it. */
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
  return event.type === "output" ? event.bytes.byteLength + eventCostBytes : eventCostBytes;
}
