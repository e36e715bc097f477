/**
 * The inbox is the receiving half of a link: it takes the bytes that come from the guest, has them decoded, and hands
 * on the frames. A guest may send at any rate, so the inbox works through no more than a turn's worth at once. What is
 * left waits for a turn (`turns.ts`), and meanwhile the byte stream is paused.
 */
import type { Duplex } from "node:stream";
import type { Frame } from "./frames.ts";
import { type LaneName, type LinkTurns, linkTurns, type TurnTaker } from "./turns.ts";

/** The most that is worked through in one turn. */
const maxTurnBytes = 256 * 1024;
const maxTurnFrames = 500;
/** A link that had less than a turn's worth within this time begins a new turn, ms. */
const turnMs = 25;
/** Chunks are decoded in pieces of this size, so that a turn can end within a large one. */
const pieceBytes = 64 * 1024;
/** A turn is wasteful when its frames carry less than this on average. */
const wastefulPayloadBytes = 2 * 1024;

export interface InboxOwner {
  /** The frames that end in these bytes. They are all read before the next call. @throws the error for the link */
  decode(bytes: Uint8Array): Iterable<Frame>;
  /** Takes a frame. Returns false when the link has ended. @throws the error for the link */
  receive(frame: Frame): boolean;
  /** The link is to end because of this error. */
  fail(error: unknown): void;
  /** The byte stream has ended, and everything before its end was received. */
  end(): void;
}

export class Inbox implements TurnTaker {
  readonly #bytes: Duplex;
  readonly #owner: InboxOwner;
  readonly #turns: LinkTurns;
  /** Chunks not yet decoded, from `#next` on, oldest first; that one is decoded up to `#at`. */
  #chunks: Uint8Array[] = [];
  #next = 0;
  #at = 0;
  /** Bytes of the chunks that are not decoded. */
  #waitingBytes = 0;
  /** The frames of the piece that is being worked through. */
  #frames: Iterator<Frame> | undefined;
  /** The work of this turn: its beginning on the monotonic clock, bytes, frames, and payload bytes of those. */
  #turnStartMs = 0;
  #turnBytes = 0;
  #turnFrames = 0;
  #turnPayload = 0;
  /** The inbox works in turns, since it has had more than a turn's worth, until there is nothing at its turn. */
  #isQueued = false;
  /** The byte stream has ended. */
  #isEnded = false;
  #isStopped = false;

  constructor(bytes: Duplex, owner: InboxOwner, turns: LinkTurns = linkTurns) {
    this.#bytes = bytes;
    this.#owner = owner;
    this.#turns = turns;
    bytes.on("data", this.#onData).on("end", this.#onEnd).on("close", this.#onEnd);
  }

  /** Takes nothing any more, and forgets what has arrived. */
  stop(): void {
    this.#isStopped = true;
    this.#bytes.off("data", this.#onData).off("end", this.#onEnd).off("close", this.#onEnd);
    this.#turns.leave(this);
    this.#chunks = [];
    this.#waitingBytes = 0;
    this.#frames = undefined;
  }

  takeTurn(): LaneName | undefined {
    const hadWork = this.#frames !== undefined || this.#waitingBytes > 0;
    this.#beginTurn();
    const isDone = this.#work();
    if (this.#isStopped) return undefined;
    if (isDone && this.#isEnded) {
      this.#owner.end();
      return undefined;
    }
    if (isDone && !hadWork) {
      this.#isQueued = false;
      return undefined;
    }
    if (isDone) this.#bytes.resume();
    return this.#lane();
  }

  readonly #onData = (chunk: Uint8Array) => {
    this.#chunks.push(chunk);
    this.#waitingBytes += chunk.length;
    if (this.#isQueued) {
      if (this.#waitingBytes >= maxTurnBytes) this.#bytes.pause();
      return;
    }
    if (performance.now() - this.#turnStartMs >= turnMs) this.#beginTurn();
    if (this.#work() || this.#isStopped) return;
    this.#isQueued = true;
    this.#bytes.pause();
    this.#turns.enter(this, this.#lane());
  };

  readonly #onEnd = () => {
    this.#isEnded = true;
    if (!this.#isQueued) this.#owner.end();
  };

  #beginTurn(): void {
    this.#turnStartMs = performance.now();
    this.#turnBytes = 0;
    this.#turnFrames = 0;
    this.#turnPayload = 0;
  }

  /** Works until the turn is used up, or nothing is left: true. */
  #work(): boolean {
    try {
      while (this.#turnFrames < maxTurnFrames) {
        this.#frames ??= this.#nextPiece();
        if (this.#frames === undefined) return this.#waitingBytes === 0;
        const next = this.#frames.next();
        if (next.done) {
          this.#frames = undefined;
          continue;
        }
        this.#turnFrames += 1;
        this.#turnPayload += next.value.payload.length;
        if (!this.#owner.receive(next.value)) return true;
      }
    } catch (error) {
      this.#owner.fail(error);
    }
    return false;
  }

  /** Begins with the next piece; undefined when there is none, or its bytes are more than the turn has left. */
  #nextPiece(): Iterator<Frame> | undefined {
    const chunk = this.#chunks[this.#next];
    if (chunk === undefined || this.#turnBytes >= maxTurnBytes) return undefined;
    const piece = chunk.subarray(this.#at, this.#at + pieceBytes);
    this.#at += piece.length;
    if (this.#at === chunk.length) this.#dropChunk();
    this.#turnBytes += piece.length;
    this.#waitingBytes -= piece.length;
    return this.#owner.decode(piece)[Symbol.iterator]();
  }

  #dropChunk(): void {
    this.#next += 1;
    this.#at = 0;
    if (this.#next * 2 < this.#chunks.length) return;
    this.#chunks = this.#chunks.slice(this.#next);
    this.#next = 0;
  }

  #lane(): LaneName {
    return this.#turnPayload < this.#turnFrames * wastefulPayloadBytes || this.#turnFrames === 0 ? "wasteful" : "bulk";
  }
}
