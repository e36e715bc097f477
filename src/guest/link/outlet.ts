/**
 * The outlet is the sending half of a stream: DATA in order, within the guest's window and the byte stream's room, then
 * END.
 */
import { DomainError } from "../../errors.ts";
import { FrameType, INITIAL_WINDOW, MAX_PAYLOAD, protocolError } from "./protocol.ts";
import { Pulse } from "./pulse.ts";

/** The part of a link that its streams use. */
export interface FrameSender {
  /** Hands a frame to the byte stream at once. Does nothing when the link has ended. */
  send(type: FrameType, stream: number, payload?: Uint8Array): void;
  /** False while the byte stream has enough bytes to write. */
  readonly hasRoom: boolean;
  /** Resolves when the byte stream has room again, or when the link has ended. */
  roomMade(): Promise<void>;
  /** Breaks the link. */
  fail(reason: DomainError): void;
}

export class Outlet {
  readonly #stream: number;
  readonly #link: FrameSender;
  /** Returns the error with which to refuse input once the stream has ended; undefined while it is open. */
  readonly #refusal: () => DomainError | undefined;
  /** Payload bytes that may still be sent. */
  #window = INITIAL_WINDOW;
  #ended = false;
  /** Settles when all bytes handed over so far are sent or have failed; never rejects. */
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
   * Sends bytes as DATA, after all earlier ones, in frames that fit; resolves when the window has taken all of them.
   * The caller must not change the bytes afterwards.
   * @throws the failure that ended the stream, or `failed_precondition` when the stream takes no more input.
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

  /** Sends END after all earlier bytes, and resolves then. Nothing can be sent afterwards. */
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

  /** Wakes waiting sends, because the stream has ended. */
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
