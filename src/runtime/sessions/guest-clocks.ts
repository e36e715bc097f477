/**
 * Guests count time on from when they were given it. A host that sleeps, or whose clock is set, leaves them behind: then
 * they are given the time again.
 */
import type { Clock } from "../../clock.ts";
import { setGuestClock } from "../machines/identity.ts";
import type { Session } from "./session.ts";

/** Less between two checks is what clocks drift. */
const jumpMs = 1_000;
/** So long nobody checked: on some systems the monotonic clock runs on while the host sleeps. */
const standstillMs = 30_000;

export class GuestClocks {
  readonly #clock: Clock;
  #checked: { readonly wallMs: number; readonly monotonicMs: number } | undefined;
  /** How often the host's clock has jumped. */
  #jumps = 0;
  /** Which jump a guest's time is of. */
  readonly #given = new WeakMap<Session, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Gives the time to every guest that has it from before the host's clock jumped. Never waits for answers. */
  check(sessions: Iterable<Session>): void {
    this.#look();
    for (const session of sessions) {
      // One that is new was given the time a moment ago.
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
      session.log.info("the host's clock jumped: the guest has the time again");
    } catch (error) {
      this.#given.set(session, before);
      if (!session.ended.aborted) session.log.warn({ err: error }, "a guest could not be given the time; trying again");
    }
  }
}
