/**
 * The seed's RuntimeStuckVmCleanup: a machine whose agent has not answered a heartbeat for too long is given up, so that
 * its sandbox ends with a clear state instead of hanging. Policy here; ending the machine is its owner's.
 */
import type { Clock } from "../../clock.ts";
import type { Session } from "./session.ts";

/** Pure. Both times in milliseconds in which somebody listened. */
export function decide(lastAnswerMs: number, nowMs: number, timeoutMs: number): "preserve" | "clean_up" {
  return nowMs - lastAnswerMs >= timeoutMs ? "clean_up" : "preserve";
}

/** A session, and whether its machine is stopped for a while, which it has not to answer for. */
type Watched = Session & { readonly isStopped: boolean };

interface Heartbeat {
  lastAnswerMs: number;
  /** A ping is on its way: never more than one per session. */
  waiting: boolean;
  /** It has answered something else since the last check, so that it need not be woken for a ping. */
  heard: boolean;
}

export class StuckVmCleanup {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #onStuck: (session: Session, silentMs: number) => void;
  readonly #heartbeats = new WeakMap<Session, Heartbeat>();
  /** Monotonic time of the last check. */
  #checkedAtMs: number | undefined;
  /** Of the monotonic time, how much nobody listened: the daemon was stopped, or slept with its host. */
  #deafMs = 0;

  constructor(clock: Clock, timeoutMs: number, onStuck: (session: Session, silentMs: number) => void) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#onStuck = onStuck;
  }

  /** The machine has answered something else: as good as a heartbeat. */
  heard(session: Session): void {
    const heartbeat = this.#heartbeatOf(session);
    heartbeat.lastAnswerMs = this.#nowMs();
    heartbeat.heard = true;
  }

  /**
   * Sends a heartbeat to every session that said nothing since the last check, and gives up those that have been silent
   * for too long. Never waits for answers.
   */
  check(sessions: Iterable<Watched>): void {
    const nowMs = this.#listen();
    for (const session of [...sessions]) {
      const heartbeat = this.#heartbeatOf(session);
      // However long a slow disk takes to save it, that is no silence of its guest.
      if (session.isStopped) heartbeat.lastAnswerMs = nowMs;
      if (decide(heartbeat.lastAnswerMs, nowMs, this.#timeoutMs) === "clean_up") {
        this.#onStuck(session, nowMs - heartbeat.lastAnswerMs);
      } else if (!heartbeat.waiting && !heartbeat.heard) {
        void this.#ping(session, heartbeat);
      }
      heartbeat.heard = false;
    }
  }

  #heartbeatOf(session: Session): Heartbeat {
    const known = this.#heartbeats.get(session);
    if (known) return known;
    const heartbeat = { lastAnswerMs: this.#nowMs(), waiting: false, heard: false };
    this.#heartbeats.set(session, heartbeat);
    return heartbeat;
  }

  /** However long ago the last check was, no more than half of the deadline counts: answers to come are heard first. */
  #listen(): number {
    const nowMs = this.#clock.monotonicMs();
    const sinceMs = nowMs - (this.#checkedAtMs ?? nowMs);
    this.#checkedAtMs = nowMs;
    this.#deafMs += Math.max(0, sinceMs - this.#timeoutMs / 2);
    return this.#nowMs();
  }

  #nowMs(): number {
    return this.#clock.monotonicMs() - this.#deafMs;
  }

  async #ping(session: Session, heartbeat: Heartbeat): Promise<void> {
    heartbeat.waiting = true;
    try {
      await session.agent.ping();
      heartbeat.lastAnswerMs = this.#nowMs();
    } catch (error) {
      // A link that broke is made anew by the session; silence counts on until it answers.
      if (!session.ended.aborted) session.log.debug({ err: error }, "no answer to a heartbeat");
    } finally {
      heartbeat.waiting = false;
    }
  }
}
