/**
 * The heartbeats find machines that are stuck: a session is given up when its agent has not answered for too long, so
 * that its sandbox ends with a clear state instead of hanging. The owner of the session ends it.
 */
import type { Clock } from "../../clock.ts";
import type { Session } from "./session.ts";

/** Decides about a silent machine. Pure. Both times are in milliseconds during which the daemon listened. */
export function judgeSilence(lastAnswerMs: number, nowMs: number, timeoutMs: number): "preserve" | "clean_up" {
  return nowMs - lastAnswerMs >= timeoutMs ? "clean_up" : "preserve";
}

/** A session that may be silent for a while, because its machine is stopped for a save. */
type WatchedSession = Session & { readonly isStopped: boolean };

interface Heartbeat {
  lastAnswerMs: number;
  /** A ping is on its way. There is never more than one for each session. */
  waiting: boolean;
  /** The agent has answered something else since the last check, so that no ping need wake the guest. */
  heard: boolean;
}

export class Heartbeats {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #onStuck: (session: Session, silentMs: number) => void;
  readonly #heartbeats = new WeakMap<Session, Heartbeat>();
  /** Monotonic time of the last check. */
  #checkedAtMs: number | undefined;
  /** How much of the monotonic time the daemon did not listen, because it was stopped or slept with its host. */
  #deafMs = 0;

  constructor(clock: Clock, timeoutMs: number, onStuck: (session: Session, silentMs: number) => void) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#onStuck = onStuck;
  }

  /** Notes another answer of the agent, which is as good as a heartbeat. */
  heard(session: Session): void {
    const heartbeat = this.#heartbeatOf(session);
    heartbeat.lastAnswerMs = this.#nowMs();
    heartbeat.heard = true;
  }

  /**
   * Sends a heartbeat to every session that was silent since the last check, and gives up those that have been silent
   * for too long. Never waits for answers.
   */
  check(sessions: Iterable<WatchedSession>): void {
    const nowMs = this.#listen();
    for (const session of [...sessions]) {
      const heartbeat = this.#heartbeatOf(session);
      // A save on a slow disk may take long, and is no silence of the guest.
      if (session.isStopped) heartbeat.lastAnswerMs = nowMs;
      if (judgeSilence(heartbeat.lastAnswerMs, nowMs, this.#timeoutMs) === "clean_up") {
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

  /**
   * Counts no more than half of the deadline for the time since the last check, however long that was, so that answers
   * on their way are heard first.
   */
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
      // The session makes a broken link anew. The silence counts on until the agent answers.
      if (!session.ended.aborted) session.log.debug({ err: error }, "the agent did not answer a heartbeat");
    } finally {
      heartbeat.waiting = false;
    }
  }
}
