/**
 * The link turns share the event loop's time among the links whose guests send more than a turn's worth at a time. One
 * such link has a turn per round of the event loop, in the order in which the links came, so that requests of others
 * are served in between. Links that send wasteful frames (tiny ones, which cost time and carry nothing) have a lane of
 * their own, which rests after every turn, so that all of them together cost a fixed part of the loop's time.
 */

/** A link with work that waits. */
export interface TurnTaker {
  /** Does one turn's worth of work. Returns the lane for the link's next turn; undefined when there is no more work. */
  takeTurn(): LaneName | undefined;
}

/** `bulk`: frames that carry much. `wasteful`: frames that carry little. */
export type LaneName = "bulk" | "wasteful";

/** The time that the loop is left to others after a wasteful turn, as a multiple of that turn. */
const wastefulRestRatio = 4;
/** A turn of a busy host takes long because others run meanwhile. Then that multiple would be out of proportion. */
const maxRestMs = 10;

export class LinkTurns {
  readonly #lanes: Readonly<Record<LaneName, Lane>> = {
    bulk: new Lane(this, 0),
    wasteful: new Lane(this, wastefulRestRatio),
  };

  /** Gives the link a turn after those that wait in that lane. A link waits in one lane at a time. */
  enter(taker: TurnTaker, lane: LaneName): void {
    this.#lanes[lane].add(taker);
  }

  /** Takes the link out of the lanes. */
  leave(taker: TurnTaker): void {
    this.#lanes.bulk.delete(taker);
    this.#lanes.wasteful.delete(taker);
  }
}

class Lane {
  readonly #turns: LinkTurns;
  readonly #restRatio: number;
  readonly #waiting = new Set<TurnTaker>();
  /** A turn is scheduled. */
  #isScheduled = false;
  #restMs = 0;

  constructor(turns: LinkTurns, restRatio: number) {
    this.#turns = turns;
    this.#restRatio = restRatio;
  }

  add(taker: TurnTaker): void {
    this.#waiting.add(taker);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    // A timer is no more exact than a millisecond, so that a rest is never shorter than that.
    if (this.#restRatio === 0) setImmediate(this.#run);
    else setTimeout(this.#run, Math.min(maxRestMs, Math.max(1, Math.ceil(this.#restMs))));
  }

  delete(taker: TurnTaker): void {
    this.#waiting.delete(taker);
  }

  readonly #run = () => {
    this.#isScheduled = false;
    this.#restMs = 0;
    const [taker] = this.#waiting;
    if (taker === undefined) return;
    this.#waiting.delete(taker);
    const startedMs = performance.now();
    const lane = taker.takeTurn();
    this.#restMs = (performance.now() - startedMs) * this.#restRatio;
    if (lane !== undefined) this.#turns.enter(taker, lane);
    // Those that wait go on when the taker has left the lane, too.
    const [next] = this.#waiting;
    if (next !== undefined) this.add(next);
  };
}

/** The turns of all links of this process. They share one event loop. */
export const linkTurns = new LinkTurns();
