/**
 * The guest clocks are kept right: a guest counts time on from the moment when it was given the time. A host that
 * sleeps, or the setting of the host's clock, leaves its guests behind; then they are given the time again.
 */
import { type Clock, type ClockReading, idleTimeBetween, readClock } from "../../clock.ts";
import { setGuestClock } from "../machines/identity.ts";
import type { Session } from "./session.ts";

export class GuestClocks {
  readonly #clock: Clock;
  #checked: ClockReading | undefined;
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
    const now = readClock(this.#clock);
    if (idleTimeBetween(this.#checked ?? now, now) !== 0) this.#jumps += 1;
    this.#checked = now;
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
