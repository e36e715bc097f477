/** The sending half of a stream: DATA within the guest's window and the byte stream's room, in order, then END. */
import { DomainError } from "../errors.ts";
import { FrameType, INITIAL_WINDOW, MAX_PAYLOAD, protocolError } from "./protocol.ts";
import { Pulse } from "./pulse.ts";

/** What a stream needs of its link. */
export interface FrameSender {
  /** Hands a frame to the byte stream at once; nothing happens when the link is no more. */
  send(type: FrameType, stream: number, payload?: Uint8Array): void;
  /** False while the byte stream has enough to write. */
  readonly hasRoom: boolean;
  /** Resolves when that changes, or when the link is no more. */
  roomMade(): Promise<void>;
  /** Breaks the link. */
  fail(reason: DomainError): void;
}

export class Outlet {
  readonly #stream: number;
  readonly #link: FrameSender;
  /** The error with which to refuse input once the stream is not open any more; undefined while it is. */
  readonly #refusal: () => DomainError | undefined;
  /** Payload bytes that may still be sent. */
  #window = INITIAL_WINDOW;
  #ended = false;
  /** Settles when everything handed over so far is sent or has failed; never rejects. */
  #sending: Promise<void> = Promise.resolve();
  /** Fires when the window grows and when the stream ends. */
  readonly #changed = new Pulse();

  constructor(stream: number, link: FrameSender, refusal: () => DomainError | undefined) {
    this.#stream = stream;
    this.#link = link;
    this.#refusal = refusal;
  }

  /** `end` was called. */
  get isEnded(): boolean {
    return this.#ended;
  }

  /**
   * Sends bytes as DATA, after everything sent before, in frames that fit; resolves when the window took all of them.
   * They must not be changed afterwards.
   * @throws the failure the stream ended with, or `failed_precondition` when it takes no more input.
   */
  send(bytes: Uint8Array): Promise<void> {
    const refused = this.#ended;
    const sent = this.#sending.then(() => {
      if (refused) throw new DomainError("failed_precondition", "This input was closed");
      return this.#sendNow(bytes);
    });
    this.#sending = sent.catch(() => {});
    return sent;
  }

  /** Sends END after everything sent before; resolves then. Nothing can be sent afterwards. */
  end(): Promise<void> {
    if (this.#ended) return this.#sending;
    this.#ended = true;
    this.#sending = this.#sending.then(() => {
      if (this.#refusal() === undefined) this.#link.send(FrameType.end, this.#stream);
    });
    return this.#sending;
  }

  /** @throws DomainError `machine_failed` when the guest gives back more than it was sent. */
  grow(bytes: number): void {
    this.#window += bytes;
    if (this.#window > INITIAL_WINDOW) throw protocolError("a WINDOW for more than was sent");
    this.#changed.fire();
  }

  /** The stream has ended: whoever waits must look. */
  wake(): void {
    this.#changed.fire();
  }

  async #sendNow(bytes: Uint8Array): Promise<void> {
    let at = 0;
    while (at < bytes.length) {
      const refusal = this.#refusal();
      if (refusal) throw refusal;
      if (this.#window === 0) {
        await this.#changed.wait();
      } else if (!this.#link.hasRoom) {
        await this.#link.roomMade();
      } else {
        const part = bytes.subarray(at, at + Math.min(MAX_PAYLOAD, this.#window));
        this.#window -= part.length;
        this.#link.send(FrameType.data, this.#stream, part);
        at += part.length;
      }
    }
  }
}
