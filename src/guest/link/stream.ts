/**
 * A guest stream is one stream of the guest link, from OPEN to RESULT: arrivals that were not read yet, window to give
 * back for those that were, and the end. `frame-link.ts` feeds it frames, and the operations read it. Nothing here
 * waits inside the link's receive path, so a stream without a reader holds up itself alone.
 */
import { DomainError } from "../../errors.ts";
import { type DataChunk, DataQueue, detached } from "./data-queue.ts";
import { Fields } from "./fields.ts";
import type { Frame } from "./frames.ts";
import { type FrameSender, Outlet } from "./outlet.ts";
import { type EventKind, FrameType, INITIAL_WINDOW, protocolError } from "./protocol.ts";
import { Pulse } from "./pulse.ts";
import { STATUS_OK, statusError } from "./status.ts";

/**
 * ## open
 * Frames go both ways.
 *
 * ## reset
 * The host has lost interest and sent RESET. To its user the stream has ended with `error`. Later arrivals are thrown
 * away until the RESULT.
 *
 * ## failed, done
 * The RESULT is here, or the link broke. Earlier arrivals can still be read.
 */
type State =
  | { readonly at: "open" }
  | { readonly at: "reset"; readonly error: DomainError }
  | { readonly at: "failed"; readonly error: DomainError }
  | { readonly at: "done"; readonly fields: Fields };

/**
 * Events that a stream may leave unread. No useful event takes less than 20 bytes, so a window holds fewer. A guest
 * that sends more sends empty ones to fill the host's memory.
 */
const maxUnreadEvents = 16_384;

/**
 * Frames that a guest may still send on a stream after its RESET. Those that an honest agent has sent before it learns
 * of the RESET fit into its output buffer and the sockets on the way.
 */
const maxFramesAfterReset = 65_536;

export class GuestStream {
  readonly id: number;
  readonly #link: FrameSender;
  /** Input to the guest. */
  readonly outlet: Outlet;
  #state: State = { at: "open" };
  /** Payload bytes that the guest may still send. */
  #window = INITIAL_WINDOW;
  /** Payload bytes that were read and not yet given back to the guest. */
  #unreturned = 0;
  /** Payloads of EVENT frames. */
  #events: Uint8Array[] = [];
  readonly #data = new DataQueue();
  /** The guest sent END. */
  #dataEnded = false;
  #framesAfterReset = 0;
  readonly #changed = new Pulse();

  constructor(id: number, link: FrameSender) {
    this.id = id;
    this.#link = link;
    this.outlet = new Outlet(id, link, () => this.#refusal());
  }

  /** True until the stream has ended for its user, one way or the other. */
  get isOpen(): boolean {
    return this.#state.at === "open";
  }

  /** The guest sends no more DATA. Bytes that have arrived can still be read. */
  get isDataEnded(): boolean {
    return this.#dataEnded || !this.isOpen;
  }

  /** Resolves when the stream has ended for its user. */
  async ended(): Promise<void> {
    while (this.isOpen) await this.changed();
  }

  /** Resolves at the next arrival or change of state. */
  changed(): Promise<void> {
    return this.#changed.wait();
  }

  /**
   * Takes a frame from the link.
   * @throws DomainError `machine_failed` when the protocol does not allow it here.
   */
  receive(frame: Frame): void {
    const { type, payload } = frame;
    if (this.#state.at === "reset" && ++this.#framesAfterReset > maxFramesAfterReset) {
      throw protocolError("a stream goes on and on after its RESET");
    }
    switch (type) {
      case FrameType.data:
        if (this.#dataEnded) throw protocolError("DATA after END");
        if (payload.length === 0) throw protocolError("DATA without bytes");
        this.#spendWindow(payload.length);
        if (this.isOpen) this.#data.push(frame.channel, payload);
        break;
      case FrameType.event:
        if (payload.length < 2) throw protocolError("an EVENT without its kind");
        this.#spendWindow(payload.length);
        if (this.isOpen) this.#events.push(detached(payload));
        if (this.#events.length > maxUnreadEvents) throw protocolError("a flood of empty events");
        break;
      case FrameType.end:
        if (this.#dataEnded || payload.length > 0) throw protocolError("a wrong END");
        this.#dataEnded = true;
        break;
      case FrameType.window:
        this.outlet.grow(windowBytes(payload));
        break;
      case FrameType.result:
        this.#receiveResult(payload);
        break;
      default:
        throw protocolError(`frame type ${type} from a guest`);
    }
    this.#changed.fire();
  }

  /** Ends the stream, because the link has ended for this reason. */
  breakOff(error: DomainError): void {
    if (this.isOpen) this.#enter({ at: "failed", error });
  }

  /** Breaks the whole link because of an arrival on this stream; returns the error, to be thrown. */
  breakLink(error: DomainError): DomainError {
    this.#link.fail(error);
    return error;
  }

  /** Ends the stream with `error` for its user and tells the agent. Idempotent. */
  reset(error: DomainError): void {
    if (!this.isOpen) return;
    this.#link.send(FrameType.reset, this.id);
    this.#events = [];
    this.#data.clear();
    this.#enter({ at: "reset", error });
  }

  /** Sends CONTROL, unless the stream has ended. */
  control(payload: Uint8Array): void {
    if (this.isOpen) this.#link.send(FrameType.control, this.id, payload);
  }

  /** Takes the next bytes if any have arrived, and lets the guest send as many more. */
  takeData(): DataChunk | undefined {
    const chunk = this.#data.shift();
    if (chunk) this.#giveBack(chunk.bytes.length);
    return chunk;
  }

  /**
   * Takes the next event if one has arrived, decoded; undefined if not.
   * @throws DomainError `machine_failed`, after breaking the link, when the event is of another kind or `decode`
   *   rejects it.
   */
  takeEvent<T>(kind: EventKind, decode: (fields: Fields) => T): T | undefined {
    return this.takeAnyEvent((actual, fields) => {
      if (actual !== kind) throw protocolError(`event ${actual} instead of ${kind}`);
      return decode(fields);
    });
  }

  /**
   * Takes the next event of any kind if one has arrived, decoded; undefined if not.
   * @throws DomainError `machine_failed`, after breaking the link, when `decode` rejects the event.
   */
  takeAnyEvent<T>(decode: (kind: number, fields: Fields) => T): T | undefined {
    const payload = this.#events.shift();
    if (payload === undefined) return undefined;
    this.#giveBack(payload.length);
    return this.#decode(() => {
      const { kind, fields } = decodePayload(payload);
      return decode(kind, fields);
    });
  }

  /**
   * Waits for an event that must come.
   * @throws the failure that ended the stream, or `machine_failed` when the stream ended well without that event.
   */
  async event<T>(kind: EventKind, decode: (fields: Fields) => T): Promise<T> {
    for (;;) {
      const event = this.takeEvent(kind, decode);
      if (event !== undefined) return event;
      if (!this.isOpen) {
        return this.#decode(() => {
          this.#fields();
          throw protocolError(`a stream ended without event ${kind}`);
        });
      }
      await this.changed();
    }
  }

  /**
   * Waits for the end of the stream and decodes its RESULT.
   * @throws the failure that ended the stream: the agent's, `machine_failed` when the link broke, or the error of
   *   `reset`.
   */
  async result<T>(decode: (fields: Fields) => T): Promise<T> {
    await this.ended();
    const fields = this.#fields();
    return this.#decode(() => decode(fields));
  }

  #enter(state: State): void {
    this.#state = state;
    this.#changed.fire();
    this.outlet.wake();
  }

  #receiveResult(payload: Uint8Array): void {
    const { kind: status, fields } = decodePayload(detached(payload));
    if (!this.isOpen) return;
    if (status === STATUS_OK) this.#enter({ at: "done", fields });
    else this.#enter({ at: "failed", error: statusError(status, fields) });
  }

  /** The fields of an ok RESULT. @throws the failure that ended the stream. */
  #fields(): Fields {
    const state = this.#state;
    switch (state.at) {
      case "open":
        throw new DomainError("internal", "The stream has no result yet");
      case "reset":
      case "failed":
        throw state.error;
      case "done":
        return state.fields;
    }
  }

  #refusal(): DomainError | undefined {
    const state = this.#state;
    switch (state.at) {
      case "open":
        return undefined;
      case "reset":
      case "failed":
        return state.error;
      case "done":
        return new DomainError("failed_precondition", "The guest has ended this stream and takes no more input");
    }
  }

  #decode<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      // Of the errors that decoding throws, only this one is the guest's doing.
      if (error instanceof DomainError && error.code === "machine_failed") this.#link.fail(error);
      throw error;
    }
  }

  #spendWindow(bytes: number): void {
    this.#window -= bytes;
    if (this.#window < 0) throw protocolError("more bytes than the window allows");
  }

  /** Gives window back in large pieces, because a frame for every read would cost more than the bytes. */
  #giveBack(bytes: number): void {
    this.#unreturned += bytes;
    if (this.#unreturned < INITIAL_WINDOW / 2 || this.isDataEnded) return;
    const payload = Buffer.allocUnsafe(4);
    payload.writeUInt32BE(this.#unreturned, 0);
    this.#link.send(FrameType.window, this.id, payload);
    this.#window += this.#unreturned;
    this.#unreturned = 0;
  }
}

function decodePayload(payload: Uint8Array): { kind: number; fields: Fields } {
  const [high, low] = payload;
  if (high === undefined || low === undefined) throw protocolError("a payload without its kind");
  return { kind: (high << 8) | low, fields: Fields.decode(payload.subarray(2)) };
}

function windowBytes(payload: Uint8Array): number {
  const bytes = payload.length === 4 ? new DataView(payload.buffer, payload.byteOffset).getUint32(0) : 0;
  if (bytes === 0) throw protocolError("a wrong WINDOW");
  return bytes;
}
