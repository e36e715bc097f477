/**
 * The guest clocks are kept right: a guest counts time on from the moment when it was given the time. A host that
 * sleeps, or the setting of the host's clock, leaves its guests behind; then they are given the time again.
 */
import type { Clock } from "../../clock.ts";
import { setGuestClock } from "../machines/identity.ts";
import type { Session } from "./session.ts";

/** A smaller difference between two checks is the clocks' drift. */
const jumpMs = 1_000;
/** A longer time between two checks counts as a sleep, because some systems' monotonic clock runs on during one. */
const standstillMs = 30_000;

export class GuestClocks {
  readonly #clock: Clock;
  #checked: { readonly wallMs: number; readonly monotonicMs: number } | undefined;
  /** The number of jumps of the host's clock. */
  #jumps = 0;
  /** The number of jumps at the moment when a guest was given the time. */
  readonly #given = new WeakMap<Session, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Gives the time to every guest that was given it before the last jump. Never waits for answers. */
  check(sessions: Iterable<Session>): void {
    this.#look();
    for (const session of sessions) {
      // A new session's guest was given the time a moment ago.
      const given = this.#given.get(session) ?? this.#jumps;
      this.#given.set(session, this.#jumps);
      if (given !== this.#jumps) void this.#give(session, given);
    }
  }

  #look(): void {
    const now = { wallMs: this.#clock.nowMs(), monotonicMs: this.#clock.monotonicMs() };
    const { wallMs, monotonicMs } = this.#checked ?? now;
    this.#checked = now;
    const passedMs = now.monotonicMs - monotonicMs;
    if (Math.abs(now.wallMs - wallMs - passedMs) >= jumpMs || passedMs >= standstillMs) this.#jumps += 1;
  }

  async #give(session: Session, before: number): Promise<void> {
    try {
      await setGuestClock(session.agent, this.#clock);
      session.log.info("the host's clock jumped, and the guest was given the time again");
    } catch (error) {
      this.#given.set(session, before);
      if (!session.ended.aborted)
        session.log.warn({ err: error }, "the guest could not be given the time; trying again");
    }
  }
}
