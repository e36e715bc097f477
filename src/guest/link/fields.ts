/**
 * Fields: the tag-length-value lists inside structured payloads. Decoding reads hostile input: every length is checked
 * against the bytes that are there, groups are decoded only where a caller asks for them (so their depth is the
 * caller's, not the guest's), and there are never more fields than five-byte pieces in one frame.
 */
import { DomainError } from "../../errors.ts";
import { MAX_OPEN, MAX_PAYLOAD, OPEN_CONTINUES, type Operation, protocolError, type Tag } from "./protocol.ts";

const FIELD_HEADER_BYTES = 5;
/** The number of the operation, event, control or status, which stands before the fields. */
const KIND_BYTES = 2;

/**
 * The field writer builds a list of fields. Methods return the writer itself. A value that is undefined writes nothing.
 */
export class FieldWriter {
  #bytes = Buffer.allocUnsafe(256);
  #length = 0;

  /** @throws DomainError `invalid_argument` when the text holds a NUL, which no path, name or argument can. */
  string(tag: Tag, value: string | undefined): this {
    if (value === undefined) return this;
    if (value.includes("\0")) throw new DomainError("invalid_argument", "A text with a NUL byte cannot be passed on");
    return this.#text(tag, value);
  }

  strings(tag: Tag, values: readonly string[]): this {
    for (const value of values) this.string(tag, value);
    return this;
  }

  /** A whole number from 0 to 2⁶⁴−1. */
  integer(tag: Tag, value: number | bigint | undefined): this {
    if (value === undefined) return this;
    if ((typeof value === "number" && !Number.isInteger(value)) || value < 0 || value >= 2n ** 64n) {
      throw new DomainError("invalid_argument", `${value} is not a whole number from 0 on`);
    }
    const at = this.#field(tag, 8);
    this.#bytes.writeBigUInt64BE(BigInt(value), at);
    return this;
  }

  boolean(tag: Tag, value: boolean | undefined): this {
    if (value === undefined) return this;
    const at = this.#field(tag, 1);
    this.#bytes[at] = value ? 1 : 0;
    return this;
  }

  /** Bytes, or text that may hold anything. */
  bytes(tag: Tag, value: Uint8Array | string | undefined): this {
    if (value === undefined) return this;
    if (typeof value === "string") return this.#text(tag, value);
    const at = this.#field(tag, value.length);
    this.#bytes.set(value, at);
    return this;
  }

  group(tag: Tag, fields: FieldWriter): this {
    return this.bytes(tag, fields.#bytes.subarray(0, fields.#length));
  }

  /** The payload of one frame: `kind` and all fields, which must be few. */
  payload(kind: number): Uint8Array {
    return this.#part(kind, 0, this.#length);
  }

  /**
   * The payloads of the OPEN frames that together carry the fields.
   * @throws DomainError `invalid_argument` when they are larger than the protocol allows.
   */
  openPayloads(operation: Operation): Uint8Array[] {
    if (this.#length > MAX_OPEN) {
      throw new DomainError("invalid_argument", `The request has ${this.#length} bytes; a guest takes ${MAX_OPEN}`);
    }
    const payloads: Uint8Array[] = [];
    let at = 0;
    for (; this.#length - at > MAX_PAYLOAD - KIND_BYTES; at += MAX_PAYLOAD - KIND_BYTES) {
      payloads.push(this.#part(operation | OPEN_CONTINUES, at, at + MAX_PAYLOAD - KIND_BYTES));
    }
    payloads.push(this.#part(operation, at, this.#length));
    return payloads;
  }

  #part(kind: number, start: number, end: number): Uint8Array {
    const payload = Buffer.allocUnsafe(KIND_BYTES + end - start);
    payload.writeUInt16BE(kind, 0);
    this.#bytes.copy(payload, KIND_BYTES, start, end);
    return payload;
  }

  #text(tag: Tag, value: string): this {
    const size = Buffer.byteLength(value);
    const at = this.#field(tag, size);
    this.#bytes.write(value, at, size);
    return this;
  }

  /** Writes a field's header, makes room for its value (`#bytes` may be another buffer then) and returns its offset. */
  #field(tag: Tag, size: number): number {
    const header = this.#length;
    const end = header + FIELD_HEADER_BYTES + size;
    if (end > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(end, this.#bytes.length * 2));
      this.#bytes.copy(grown, 0, 0, header);
      this.#bytes = grown;
    }
    this.#bytes[header] = tag;
    this.#bytes.writeUInt32BE(size, header + 1);
    this.#length = end;
    return header + FIELD_HEADER_BYTES;
  }
}

/**
 * A decoded list of fields. Accessors throw `machine_failed` when a required field is missing or has the wrong size. Of
 * a field that is there twice but is no list, they take the first. Unknown tags are never looked at.
 */
export class Fields {
  readonly #bytes: Buffer;
  /** Tag, start and end of each field, one after the other. */
  readonly #index: readonly number[];

  private constructor(bytes: Buffer, index: readonly number[]) {
    this.#bytes = bytes;
    this.#index = index;
  }

  /** @throws DomainError `machine_failed` when a field reaches beyond the end. */
  static decode(payload: Uint8Array): Fields {
    const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
    const index: number[] = [];
    let at = 0;
    while (at < bytes.length) {
      if (bytes.length - at < FIELD_HEADER_BYTES) throw protocolError("a field's header is cut off");
      const start = at + FIELD_HEADER_BYTES;
      const length = bytes.readUInt32BE(at + 1);
      if (length > bytes.length - start) throw protocolError("a field reaches beyond its payload");
      index.push(bytes.readUInt8(at), start, start + length);
      at = start + length;
    }
    return new Fields(bytes, index);
  }

  get byteLength(): number {
    return this.#bytes.length;
  }

  has(tag: Tag): boolean {
    return this.#find(tag) !== undefined;
  }

  /** A text. Bytes that are no UTF-8 (a file name may hold any bytes) become U+FFFD. */
  optionalString(tag: Tag): string | undefined {
    return this.#find(tag)?.toString("utf8");
  }

  string(tag: Tag): string {
    return this.optionalString(tag) ?? missing(tag);
  }

  strings(tag: Tag): string[] {
    return this.#findAll(tag).map((value) => value.toString("utf8"));
  }

  optionalInteger(tag: Tag): number | undefined {
    const value = this.#find(tag);
    if (value === undefined) return undefined;
    return integerBytes(tag, value).readUInt32BE(0) * 2 ** 32 + value.readUInt32BE(4);
  }

  /** A number from 0 on. Above 2⁵³ it is the nearest one that JavaScript has (sparse files may claim any size). */
  integer(tag: Tag): number {
    return this.optionalInteger(tag) ?? missing(tag);
  }

  signed(tag: Tag): bigint {
    return integerBytes(tag, this.#find(tag) ?? missing(tag)).readBigInt64BE(0);
  }

  /** False when the field is absent. */
  boolean(tag: Tag): boolean {
    const value = this.#find(tag);
    if (value === undefined) return false;
    if (value.length !== 1) throw protocolError(`field ${tag} is no boolean`);
    return value[0] !== 0;
  }

  optionalGroup(tag: Tag): Fields | undefined {
    const value = this.#find(tag);
    return value && Fields.decode(value);
  }

  group(tag: Tag): Fields {
    return this.optionalGroup(tag) ?? missing(tag);
  }

  groups(tag: Tag): Fields[] {
    return this.#findAll(tag).map((value) => Fields.decode(value));
  }

  #find(tag: Tag): Buffer | undefined {
    for (let i = 0; i < this.#index.length; i += 3) {
      if (this.#index[i] === tag) return this.#bytes.subarray(this.#index[i + 1], this.#index[i + 2]);
    }
    return undefined;
  }

  #findAll(tag: Tag): Buffer[] {
    const values: Buffer[] = [];
    for (let i = 0; i < this.#index.length; i += 3) {
      if (this.#index[i] === tag) values.push(this.#bytes.subarray(this.#index[i + 1], this.#index[i + 2]));
    }
    return values;
  }
}

function integerBytes(tag: Tag, value: Buffer): Buffer {
  if (value.length !== 8) throw protocolError(`field ${tag} is no integer`);
  return value;
}

function missing(tag: Tag): never {
  throw protocolError(`field ${tag} is missing`);
}
