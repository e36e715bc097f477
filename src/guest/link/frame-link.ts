/**
 * The frame link is one connection of the guest link over a byte stream: greeting, table of streams, and their common
 * end when the byte stream or the protocol breaks. It knows neither the engine that opened the byte stream nor the
 * meaning of operations.
 */
import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";
import { type Clock, systemClock } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { onAbort, throwIfAborted } from "./abort.ts";
import { Fields, type FieldWriter } from "./fields.ts";
import { encodeFrame, type Frame, FrameDecoder, WelcomeScanner } from "./frames.ts";
import { Inbox } from "./inbox.ts";
import type { FrameSender } from "./outlet.ts";
import {
  FrameType,
  HELLO_MAGIC,
  MAX_STREAMS,
  NONCE_BYTES,
  type Operation,
  PREAMBLE_BYTES,
  PROTOCOL_VERSION,
  protocolError,
  Tag,
} from "./protocol.ts";
import { Pulse } from "./pulse.ts";
import { GuestStream } from "./stream.ts";

export interface LinkOptions {
  /** The time that the agent may take to answer. */
  readonly deadlineMs: number;
  /** Gives up connecting. Has no effect once connected. */
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock;
  readonly log?: Logger;
}

/** The agent's answer to the greeting. */
export interface Welcome {
  readonly agentVersion: string;
  readonly bootId: string;
}

/**
 * ## greeting
 * HELLO is sent, and sent again while no answer comes. Bytes that arrive are thrown away until the WELCOME that answers it.
 *
 * ## welcoming
 * That WELCOME has begun, and every byte from there on is judged.
 *
 * ## open
 * Streams may be opened.
 *
 * ## closed
 * The byte stream is destroyed and every stream has ended.
 */
type State =
  | { readonly at: "greeting"; readonly scanner: WelcomeScanner }
  | { readonly at: "welcoming" }
  | { readonly at: "open" }
  | { readonly at: "closed"; readonly reason: DomainError };

/**
 * Bytes that may wait until the guest reads them. DATA waits for room before it is sent, so these are requests. When
 * there are more than any client has under way, the guest has stopped reading.
 */
const maxUnsentBytes = 64 * 2 ** 20;
const lastStreamId = 2 ** 32 - 1;
/**
 * How long the answer to HELLO may take before HELLO is sent again; the pause doubles up to the longest. A guest that is
 * starved of its processor may take a HELLO before it learns that its port has a host, and then drops its answer
 * together with the link that it takes for ended.
 */
const firstGreetingMs = 1_000;
const longestGreetingMs = 8_000;
const noPayload = new Uint8Array(0);

export class FrameLink implements FrameSender {
  /** Resolves with the reason when the link has ended; never rejects. */
  readonly closed: Promise<DomainError>;
  #resolveClosed: (reason: DomainError) => void = () => {};
  /** Resolves when the agent has answered. */
  readonly #welcomed: Promise<Welcome>;
  #resolveWelcomed: (welcome: Welcome) => void = () => {};
  readonly #bytes: Duplex;
  readonly #log: Logger | undefined;
  readonly #decoder = new FrameDecoder();
  readonly #inbox: Inbox;
  #state: State;
  /** Streams that the agent owes a RESULT. */
  readonly #streams = new Map<number, GuestStream>();
  #lastStreamId = 0;
  /** Frames of this turn of the event loop are being collected, and are written together at the end of the turn. */
  #isCorked = false;
  readonly #room = new Pulse();
  readonly #nonce: Uint8Array;
  /** HELLOs without an answer. The agent answers each one that reaches it, even when streams are open by then. */
  #unansweredHellos = 0;
  #receivedBytes = 0;

  private constructor(bytes: Duplex, nonce: Uint8Array, log: Logger | undefined) {
    this.#bytes = bytes;
    this.#nonce = nonce;
    this.#log = log;
    this.#state = { at: "greeting", scanner: new WelcomeScanner(nonce) };
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#welcomed = new Promise((resolve) => {
      this.#resolveWelcomed = resolve;
    });
    this.#inbox = new Inbox(bytes, {
      decode: (chunk) => this.#decode(chunk),
      receive: (frame) => this.#receive(frame),
      fail: (error) => this.#failFor(error),
      end: this.#onEnd,
    });
    bytes.on("drain", this.#onDrain).on("error", this.#onError);
  }

  /**
   * Greets the agent at the other end of `bytes`. The byte stream is the link's own from now on: it is destroyed when
   * the link ends, and when this fails.
   * @throws DomainError `deadline_exceeded` when no agent answers in time, `unsupported` when the agent speaks another
   *   version of the protocol, `machine_failed` when the byte stream ends or breaks the protocol, or the signal's
   *   reason (`cancelled`). The byte stream is destroyed then.
   */
  static async connect(bytes: Duplex, options: LinkOptions): Promise<{ link: FrameLink; welcome: Welcome }> {
    const { deadlineMs, clock = systemClock } = options;
    const link = new FrameLink(bytes, randomBytes(NONCE_BYTES), options.log);
    const answered = new AbortController();
    using _ = onAbort(options.signal, (reason) => link.fail(reason));
    clock.sleep(deadlineMs, answered.signal).then(
      () => link.fail(new DomainError("deadline_exceeded", `The guest agent did not answer within ${deadlineMs} ms`)),
      () => {},
    );
    if (bytes.destroyed || bytes.readableEnded) link.#onEnd();
    void link.#greetUntilAnswered(clock, answered.signal);
    try {
      const welcome = await Promise.race([link.#welcomed, link.closed]);
      if (welcome instanceof DomainError) throw welcome;
      return { link, welcome };
    } finally {
      answered.abort();
    }
  }

  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  get hasRoom(): boolean {
    return !this.#bytes.writableNeedDrain;
  }

  roomMade(): Promise<void> {
    return this.#room.wait();
  }

  /**
   * Starts an operation. Its frames leave before the caller goes on, so that guest and caller work at the same time.
   * @throws DomainError the reason when the link has ended, `capacity_exhausted` when too many streams are open,
   *   `invalid_argument` when the fields are too large.
   */
  open(operation: Operation, fields: FieldWriter): GuestStream {
    if (this.#state.at === "closed") throw this.#state.reason;
    if (this.#streams.size >= MAX_STREAMS) {
      const details = { status: "resource_exhausted" };
      throw new DomainError("capacity_exhausted", `The guest already has ${MAX_STREAMS} requests under way`, details);
    }
    if (this.#lastStreamId === lastStreamId) throw new DomainError("internal", "The guest link is out of stream ids");
    const payloads = fields.openPayloads(operation);
    const stream = new GuestStream(++this.#lastStreamId, this);
    this.#streams.set(stream.id, stream);
    for (const payload of payloads) this.send(FrameType.open, stream.id, payload);
    this.#uncork();
    return stream;
  }

  /** Runs an operation that answers with its RESULT alone. An aborted signal cancels the operation in the guest. */
  async call<T>(
    operation: Operation,
    fields: FieldWriter,
    decode: (fields: Fields) => T,
    signal?: AbortSignal,
  ): Promise<T> {
    throwIfAborted(signal);
    const stream = this.open(operation, fields);
    using _ = onAbort(signal, (reason) => stream.reset(reason));
    return await stream.result(decode);
  }

  send(type: FrameType, stream: number, payload: Uint8Array = noPayload): void {
    if (this.#state.at === "closed") return;
    if (!this.#isCorked) {
      this.#isCorked = true;
      this.#bytes.cork();
      process.nextTick(this.#uncork);
    }
    for (const part of encodeFrame({ type, channel: 0, stream, payload })) this.#bytes.write(part);
    if (this.#bytes.writableLength > maxUnsentBytes) this.fail(protocolError("it has stopped reading"));
  }

  fail(reason: DomainError): void {
    if (this.#state.at === "closed") return;
    this.#state = { at: "closed", reason };
    const bytes = this.#bytes;
    this.#inbox.stop();
    bytes.off("drain", this.#onDrain);
    // The error listener stays, because a byte stream may still fail while it is being destroyed.
    bytes.destroy();
    for (const stream of this.#streams.values()) stream.breakOff(reason);
    this.#streams.clear();
    this.#room.fire();
    this.#resolveClosed(reason);
    this.#log?.debug({ reason: reason.message, code: reason.code }, "the guest link has ended");
  }

  /** Ends the link from this side. */
  close(): void {
    this.fail(new DomainError("cancelled", "The link to the guest was closed"));
  }

  /** Every HELLO has the same nonce, so that the answer to any of them will do. */
  async #greetUntilAnswered(clock: Clock, answered: AbortSignal): Promise<void> {
    for (let pauseMs = firstGreetingMs; this.#state.at === "greeting"; pauseMs *= 2) {
      if (this.#unansweredHellos > 0) this.#log?.warn({ hellos: this.#unansweredHellos }, "the agent is greeted again");
      this.#greet();
      await clock.sleep(Math.min(pauseMs, longestGreetingMs), answered).catch(() => {});
    }
  }

  #greet(): void {
    this.#bytes.write(Buffer.alloc(PREAMBLE_BYTES));
    const version = Buffer.of(PROTOCOL_VERSION >> 8, PROTOCOL_VERSION & 0xff);
    this.send(FrameType.hello, 0, Buffer.concat([HELLO_MAGIC, version, this.#nonce]));
    this.#unansweredHellos += 1;
  }

  readonly #uncork = () => {
    this.#isCorked = false;
    this.#bytes.uncork();
  };

  #failFor(error: unknown): void {
    this.fail(
      error instanceof DomainError ? error : new DomainError("internal", messageOf(error), {}, { cause: error }),
    );
  }

  readonly #onDrain = () => this.#room.fire();

  readonly #onEnd = () => this.fail(new DomainError("machine_failed", "The link to the guest has ended"));

  readonly #onError = (error: Error) => {
    const message = `The link to the guest has failed: ${error.message}`;
    this.fail(new DomainError("machine_failed", message, {}, { cause: error }));
  };

  /** The frames in `chunk`; none while all bytes are still thrown away. */
  #decode(chunk: Uint8Array): Iterable<Frame> {
    this.#receivedBytes += chunk.length;
    if (this.#state.at !== "greeting") return this.#decoder.decode(chunk);
    const rest = this.#state.scanner.scan(chunk);
    if (rest === undefined) return [];
    this.#state = { at: "welcoming" };
    return this.#decoder.decode(rest);
  }

  /** Returns false when the link has ended. */
  #receive(frame: Frame): boolean {
    if (this.#state.at === "welcoming") {
      this.#receiveWelcome(frame);
      return true;
    }
    if (frame.type === FrameType.welcome && this.#isLateWelcome(frame)) return true;
    const stream = this.#streams.get(frame.stream);
    if (stream === undefined) throw protocolError(`a frame for stream ${frame.stream}, which is not open`);
    stream.receive(frame);
    if (frame.type === FrameType.result) this.#streams.delete(frame.stream);
    return this.#state.at === "open";
  }

  /** Whether a frame answers a repeated HELLO. The agent took that HELLO before any OPEN, so that no stream is lost. */
  #isLateWelcome({ stream, payload }: Frame): boolean {
    if (stream !== 0 || this.#unansweredHellos === 0) return false;
    this.#unansweredHellos -= 1;
    return Buffer.compare(payload.subarray(0, NONCE_BYTES), this.#nonce) === 0;
  }

  /** Takes a frame that the scanner has found to be a WELCOME with our nonce. */
  #receiveWelcome(frame: Frame): void {
    this.#unansweredHellos -= 1;
    const fields = Fields.decode(frame.payload.subarray(NONCE_BYTES));
    const version = fields.integer(Tag.version);
    const agentVersion = fields.string(Tag.agentVersion);
    if (version !== PROTOCOL_VERSION) {
      const message = `The guest agent speaks version ${version} of the link protocol, not ${PROTOCOL_VERSION}`;
      throw new DomainError("unsupported", message, { agentVersion });
    }
    this.#state = { at: "open" };
    this.#resolveWelcomed({ agentVersion, bootId: fields.string(Tag.bootId) });
  }
}
