/**
 * Frames: bytes to frames and back, as `src/guest-agent/README.md` has it, without any knowledge of streams. The
 * decoder's input comes from a guest and is hostile, so its memory is bounded by one frame, and its errors are typed.
 */
import { Channel, FrameType, MAX_PAYLOAD, NONCE_BYTES, protocolError } from "./protocol.ts";

const HEADER_BYTES = 12;
const END_BYTE = 0xa5;
const END = Buffer.of(END_BYTE);
/** Up to this size, copying a payload is cheaper than handing the kernel three buffers. */
const copiedPayloadBytes = 2_048;

export interface Frame {
  readonly type: FrameType;
  /** 0 in every frame but DATA. */
  readonly channel: number;
  readonly stream: number;
  readonly payload: Uint8Array;
}

/**
 * The buffers that make up a frame, in the order to write them. A large payload is among them as it is, not copied.
 * The caller keeps to {@link MAX_PAYLOAD}.
 */
export function encodeFrame(frame: Frame): Uint8Array[] {
  const { payload } = frame;
  const copied = payload.length <= copiedPayloadBytes;
  const head = Buffer.allocUnsafe(copied ? HEADER_BYTES + payload.length + 1 : HEADER_BYTES);
  head[0] = frame.type;
  head[1] = frame.channel;
  head.writeUInt16BE(0, 2);
  head.writeUInt32BE(frame.stream, 4);
  head.writeUInt32BE(payload.length, 8);
  if (!copied) return [head, payload, END];
  head.set(payload, HEADER_BYTES);
  head[HEADER_BYTES + payload.length] = END_BYTE;
  return [head];
}

interface Header {
  readonly type: FrameType;
  readonly channel: number;
  readonly stream: number;
  readonly length: number;
}

/** The frame decoder takes chunks of any size and gives the frames in them. It holds at most one frame. */
export class FrameDecoder {
  /** The bytes of a header that is still incomplete. */
  readonly #headerBytes = Buffer.alloc(HEADER_BYTES);
  #headerFilled = 0;
  /** The header whose payload is awaited. */
  #header: Header | undefined;
  /** Payload and end byte of a frame that began in an earlier chunk. */
  #body: Uint8Array | undefined;
  #bodyFilled = 0;

  /**
   * The frames that end in `chunk`. The caller reads them all before the next call. A payload may be a view into
   * `chunk`.
   * @throws DomainError `machine_failed` at the first protocol error; the decoder cannot be used afterwards.
   */
  *decode(chunk: Uint8Array): Generator<Frame, void, undefined> {
    let at = 0;
    for (;;) {
      if (this.#header === undefined) {
        at = this.#takeHeader(chunk, at);
        if (this.#header === undefined) return;
      }
      const { length, ...rest }: Header = this.#header;
      let body: Uint8Array;
      if (this.#body === undefined && chunk.length - at > length) {
        body = chunk.subarray(at, at + length + 1);
        at += length + 1;
      } else {
        at = this.#fillBody(chunk, at, length + 1);
        if (this.#body === undefined || this.#bodyFilled <= length) return;
        body = this.#body;
      }
      if (body[length] !== END_BYTE) throw protocolError("a frame does not end in 0xA5");
      this.#header = undefined;
      this.#body = undefined;
      yield { ...rest, payload: body.subarray(0, length) };
    }
  }

  /**
   * Skips pad bytes and collects header bytes; sets `#header` once the header is complete. Returns the offset after
   * them.
   */
  #takeHeader(chunk: Uint8Array, from: number): number {
    let at = from;
    if (this.#headerFilled === 0) while (chunk[at] === 0) at++;
    const bytes = Math.min(HEADER_BYTES - this.#headerFilled, chunk.length - at);
    this.#headerBytes.set(chunk.subarray(at, at + bytes), this.#headerFilled);
    this.#headerFilled += bytes;
    if (this.#headerFilled === HEADER_BYTES) {
      this.#header = parseHeader(this.#headerBytes);
      this.#headerFilled = 0;
    }
    return at + bytes;
  }

  #fillBody(chunk: Uint8Array, from: number, size: number): number {
    if (this.#body === undefined) {
      this.#body = Buffer.allocUnsafe(size);
      this.#bodyFilled = 0;
    }
    const bytes = Math.min(size - this.#bodyFilled, chunk.length - from);
    this.#body.set(chunk.subarray(from, from + bytes), this.#bodyFilled);
    this.#bodyFilled += bytes;
    return from + bytes;
  }
}

/** Judges in the order that the protocol fixes, so that every decoder finds the same error. */
function parseHeader(bytes: Buffer): Header {
  const type = bytes.readUInt8(0);
  const channel = bytes.readUInt8(1);
  if (!isFrameType(type)) throw protocolError(`unknown frame type ${type}`);
  if (channel > (type === FrameType.data ? Channel.terminal : 0)) throw protocolError(`channel ${channel}`);
  if (bytes.readUInt16BE(2) !== 0) throw protocolError("reserved header bytes are not zero");
  const length = bytes.readUInt32BE(8);
  if (length > MAX_PAYLOAD) throw protocolError(`a frame of ${length} payload bytes`);
  return { type, channel, stream: bytes.readUInt32BE(4), length };
}

function isFrameType(type: number): type is FrameType {
  return type >= FrameType.hello && type <= FrameType.control;
}

/**
 * The welcome scanner finds the WELCOME that answers our HELLO among the bytes that an earlier connection left behind.
 */
export class WelcomeScanner {
  readonly #nonce: Uint8Array;
  /** The last bytes that were seen, one byte fewer than the scanner searches for. */
  #tail: Buffer = Buffer.alloc(0);

  constructor(nonce: Uint8Array) {
    this.#nonce = nonce;
  }

  /** The bytes from the first one of that WELCOME on, once its header and nonce are there; undefined until then. */
  scan(chunk: Uint8Array): Uint8Array | undefined {
    const bytes = Buffer.concat([this.#tail, chunk]);
    for (let at = bytes.indexOf(this.#nonce); at !== -1; at = bytes.indexOf(this.#nonce, at + 1)) {
      if (at >= HEADER_BYTES && isWelcomeHeader(bytes.subarray(at - HEADER_BYTES, at))) {
        return bytes.subarray(at - HEADER_BYTES);
      }
    }
    this.#tail = bytes.subarray(Math.max(0, bytes.length - (HEADER_BYTES + NONCE_BYTES - 1)));
    return undefined;
  }
}

function isWelcomeHeader(header: Buffer): boolean {
  const length = header.readUInt32BE(8);
  return (
    header.readUInt32BE(0) === FrameType.welcome << 24 &&
    header.readUInt32BE(4) === 0 &&
    length >= NONCE_BYTES &&
    length <= MAX_PAYLOAD
  );
}
