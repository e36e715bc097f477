/**
 * The heartbeats find machines that are stuck: a session is given up when nothing has come from its guest for too long,
 * so that its sandbox does not hang for ever. The owner of the session decides what becomes of the sandbox.
 */
import type { Clock } from "../../clock.ts";
import type { Session } from "./session.ts";

/** A guest whose machine works is taken for busy, and has so many times the deadline. */
const busyPatience = 5;
/** From this share of one processor on a machine works. An idle one needs a few hundredths, one that stands still none. */
const busyShare = 0.2;

/** What is known of a silent machine. Times are in milliseconds during which the daemon listened. */
export interface Silence {
  readonly silentMs: number;
  readonly timeoutMs: number;
  /** Processors that the machine has used during its silence; undefined when nobody knows. */
  readonly share: number | undefined;
}

/** Decides about a silent machine. Pure. */
export function judgeSilence({ silentMs, timeoutMs, share = 0 }: Silence): "preserve" | "give_up" {
  const patienceMs = share >= busyShare ? timeoutMs * busyPatience : timeoutMs;
  return silentMs >= patienceMs ? "give_up" : "preserve";
}

/** A session as the heartbeats see it. */
type WatchedSession = Session & {
  /** The machine may be silent for a while, because it is stopped for a save or waits for room on the host's disk. */
  readonly standsStill: boolean;
  /** How many bytes came from the guest; undefined while its link is being made. */
  readonly receivedBytes: number | undefined;
  cpuTimeMs(): number | undefined;
};

interface Heartbeat {
  lastAnswerMs: number;
  /** A ping is on its way. There is never more than one for each session. */
  waiting: boolean;
  /** Something has come from the guest since the last check, so that no ping need wake the guest. */
  heard: boolean;
  /** What the last check found. */
  receivedBytes: number | undefined;
  /** The processor time of the machine when half of the deadline had passed in silence. */
  halfway: { readonly atMs: number; readonly cpuMs: number | undefined } | undefined;
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
      this.#look(session, heartbeat, nowMs);
      const silentMs = nowMs - heartbeat.lastAnswerMs;
      if (
        judgeSilence({ silentMs, timeoutMs: this.#timeoutMs, share: shareOf(session, heartbeat, nowMs) }) === "give_up"
      ) {
        // An owner that cannot do anything about it hears of it again after another deadline.
        Object.assign(heartbeat, { lastAnswerMs: nowMs, halfway: undefined });
        this.#onStuck(session, silentMs);
      } else if (!heartbeat.waiting && !heartbeat.heard) {
        void this.#ping(session, heartbeat);
      }
      heartbeat.heard = false;
    }
  }

  /** Notes what is a sign of life: any byte from the guest, such as those of an answer that takes long. */
  #look(session: WatchedSession, heartbeat: Heartbeat, nowMs: number): void {
    const { receivedBytes } = session;
    const hasCome = receivedBytes !== undefined && receivedBytes !== heartbeat.receivedBytes;
    heartbeat.receivedBytes = receivedBytes;
    if (hasCome) heartbeat.heard = true;
    // A save on a slow disk may take long, and is no silence of the guest.
    if (hasCome || session.standsStill) heartbeat.lastAnswerMs = nowMs;
    const isHalfway = nowMs - heartbeat.lastAnswerMs >= this.#timeoutMs / 2;
    heartbeat.halfway = isHalfway ? (heartbeat.halfway ?? { atMs: nowMs, cpuMs: session.cpuTimeMs() }) : undefined;
  }

  #heartbeatOf(session: Session): Heartbeat {
    const known = this.#heartbeats.get(session);
    if (known) return known;
    const heartbeat: Heartbeat = {
      ...{ lastAnswerMs: this.#nowMs(), waiting: false, heard: false },
      ...{ receivedBytes: undefined, halfway: undefined },
    };
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

/** Processors that a machine has used since it was looked at halfway through its silence. */
function shareOf(session: WatchedSession, { halfway }: Heartbeat, nowMs: number): number | undefined {
  if (halfway === undefined || nowMs <= halfway.atMs) return undefined;
  const cpuMs = session.cpuTimeMs();
  if (cpuMs === undefined || halfway.cpuMs === undefined) return undefined;
  return (cpuMs - halfway.cpuMs) / (nowMs - halfway.atMs);
}
