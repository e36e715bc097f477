/**
 * Watchers that clients poll (CreateWatcher, GetWatcherEvents, RemoveWatcher). A poll asks the guest first, so that it
 * has the events of every change before it. Each watcher has a bounded buffer; when nobody polls, the buffer fills, the
 * guest link's window closes behind it and in the end the agent says that events were lost, which the next poll after
 * the buffered events reports.
 */
import { randomUUID } from "node:crypto";
import { DomainError, messageOf } from "../errors.ts";
import type { Watch } from "../guest/agent.ts";
import type { Session } from "../runtime/sessions/session.ts";
import type { FileEvent } from "../types.ts";

const maxWatchers = 256;
const maxBufferedEvents = 4_096;

class Watcher {
  readonly #watch: Watch;
  #events: FileEvent[] = [];
  /** The error that ended the watch. */
  #error: Error | undefined;
  #closed = false;
  #wakeReader: (() => void) | undefined;
  /** Polls that wait for the guest's word, and need not once the buffer is full or the watch has ended. */
  readonly #polls = new Set<() => void>();

  constructor(watch: Watch) {
    this.#watch = watch;
    void this.#read();
  }

  /**
   * All events since the last call, those of every change before this call included, unless the buffer is full.
   * @throws what ended the watch, once its events are taken.
   */
  async poll(): Promise<FileEvent[]> {
    if (this.#isReading()) await this.#caughtUpOrPaused();
    if (this.#events.length === 0 && this.#error) throw this.#error;
    const events = this.#events;
    this.#events = [];
    this.#wakeReader?.();
    return events;
  }

  close(): void {
    this.#closed = true;
    this.#watch.close();
    this.#wakeReader?.();
    this.#releasePolls();
  }

  #isReading(): boolean {
    return !this.#closed && this.#error === undefined && this.#events.length < maxBufferedEvents;
  }

  /** Resolves when the events of every change up to now are here, or no more are read for now, or ever. */
  #caughtUpOrPaused(): Promise<void> {
    return new Promise((resolve) => {
      const release = () => {
        this.#polls.delete(release);
        resolve();
      };
      this.#polls.add(release);
      void this.#watch.caughtUp().then(release);
    });
  }

  #releasePolls(): void {
    for (const release of this.#polls) release();
  }

  async #read(): Promise<void> {
    try {
      for await (const event of this.#watch.events) {
        this.#events.push(event);
        if (this.#events.length >= maxBufferedEvents && !this.#closed) await this.#drained();
        if (this.#closed) return;
      }
      this.#error = new DomainError("not_found", "the watched directory is gone");
    } catch (error) {
      this.#error = error instanceof Error ? error : new Error(messageOf(error));
    } finally {
      this.#releasePolls();
    }
  }

  #drained(): Promise<void> {
    this.#releasePolls();
    return new Promise((resolve) => {
      this.#wakeReader = () => {
        this.#wakeReader = undefined;
        resolve();
      };
    });
  }
}

/** The polled watchers of each session, which end with it. */
export class WatcherTable {
  readonly #bySession = new WeakMap<Session, Map<string, Watcher>>();

  /**
   * Keeps a watch under a new id. @throws DomainError `capacity_exhausted` when the sandbox has too many; the watch is
   * closed
   */
  add(session: Session, watch: Watch): string {
    const watchers = this.#watchersOf(session);
    if (watchers.size >= maxWatchers || session.ended.aborted) {
      watch.close();
      throw new DomainError("capacity_exhausted", `a sandbox has at most ${maxWatchers} watchers`);
    }
    const id = `w${randomUUID().replaceAll("-", "")}`;
    watchers.set(id, new Watcher(watch));
    return id;
  }

  /** @throws not_found, and what ended the watch. */
  async poll(session: Session, id: string): Promise<FileEvent[]> {
    return this.#get(session, id).poll();
  }

  /** @throws DomainError `not_found` */
  remove(session: Session, id: string): void {
    this.#get(session, id).close();
    this.#watchersOf(session).delete(id);
  }

  #get(session: Session, id: string): Watcher {
    const watcher = this.#watchersOf(session).get(id);
    if (!watcher) throw new DomainError("not_found", `watcher with id ${id} not found`);
    return watcher;
  }

  #watchersOf(session: Session): Map<string, Watcher> {
    const known = this.#bySession.get(session);
    if (known) return known;
    const watchers = new Map<string, Watcher>();
    this.#bySession.set(session, watchers);
    session.ended.addEventListener(
      "abort",
      () => {
        for (const watcher of watchers.values()) watcher.close();
        watchers.clear();
      },
      { once: true },
    );
    return watchers;
  }
}
