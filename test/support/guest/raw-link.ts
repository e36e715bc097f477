/**
 * The raw link speaks the guest link protocol frame by frame, to test the agent. It knows the byte layout of
 * `src/guest-agent/README.md` and shares nothing with the client in `src/guest/`.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";

export const agentFolder = fileURLToPath(new URL("../../../src/guest-agent/", import.meta.url));

export const frameTypes = [
  "",
  "HELLO",
  "WELCOME",
  "OPEN",
  "DATA",
  "END",
  "EVENT",
  "RESULT",
  "WINDOW",
  "RESET",
  "CONTROL",
] as const;
export type FrameName = Exclude<(typeof frameTypes)[number], "">;

export interface RawFrame {
  readonly type: FrameName;
  readonly channel: number;
  readonly stream: number;
  readonly payload: Buffer;
}

const MAX_PAYLOAD = 32_768;
export const WINDOW = 262_144;
export const preamble = Buffer.alloc(32_800);
const HEADER_BYTES = 12;
const END_MARK = 0xa5;
const helloMagic = Buffer.from("6669726b696e0001", "hex");

export const op = {
  exec: 1,
  attach: 2,
  list: 3,
  signal: 4,
  read: 5,
  write: 6,
  stat: 7,
  listDirectory: 8,
  makeDirectory: 9,
  move: 10,
  remove: 11,
  watch: 12,
  dial: 13,
  setup: 14,
  metrics: 15,
  ping: 16,
  sync: 17,
  shutdown: 18,
  compose: 19,
} as const;

export const tag = {
  version: 1,
  agentVersion: 2,
  bootId: 3,
  message: 4,
  errno: 5,
  path: 6,
  user: 7,
  command: 8,
  argument: 9,
  env: 10,
  cwd: 11,
  tag: 12,
  pty: 13,
  columns: 14,
  rows: 15,
  stdin: 16,
  pid: 17,
  signal: 18,
  exitCode: 19,
  exited: 20,
  process: 21,
  entry: 22,
  name: 23,
  kind: 24,
  size: 25,
  mode: 26,
  owner: 27,
  group: 28,
  modifiedNs: 29,
  linkTarget: 30,
  xattr: 31,
  value: 32,
  offset: 33,
  length: 34,
  depth: 35,
  destination: 36,
  port: 37,
  recursive: 38,
  timeNs: 39,
  entropy: 40,
  hostname: 41,
  defaultUser: 42,
  defaultCwd: 43,
  file: 44,
  deadlineMs: 45,
  metric: 46,
  includeEntry: 47,
  count: 49,
  allowNetworkMounts: 50,
} as const;

export const statuses = [
  "ok",
  "invalid_argument",
  "not_found",
  "already_exists",
  "permission_denied",
  "failed_precondition",
  "not_a_directory",
  "unauthenticated",
  "unsupported",
  "resource_exhausted",
  "no_space",
  "cancelled",
  "internal",
  "is_a_directory",
] as const;
export type StatusName = (typeof statuses)[number];

/** Numbers are integers of 8 bytes, booleans 1 byte, lists of fields groups. */
export type FieldValue = string | number | bigint | boolean | Uint8Array | readonly FieldPair[];
export type FieldPair = readonly [number, FieldValue];

export function encodeFields(fields: readonly FieldPair[]): Buffer {
  return Buffer.concat(
    fields.flatMap(([number, value]) => {
      const bytes = encodeValue(value);
      const header = Buffer.alloc(5);
      header.writeUInt8(number);
      header.writeUInt32BE(bytes.length, 1);
      return [header, bytes];
    }),
  );
}

function encodeValue(value: FieldValue): Uint8Array {
  if (typeof value === "string") return Buffer.from(value);
  if (typeof value === "boolean") return Buffer.of(value ? 1 : 0);
  if (value instanceof Uint8Array) return value;
  if (typeof value === "object") return encodeFields(value);
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
}

/** Decoded fields: the values of each tag, in order. */
export class RawFields {
  readonly #values = new Map<number, Buffer[]>();

  constructor(bytes: Buffer) {
    for (let at = 0; at < bytes.length; ) {
      const end = at + 5 + bytes.readUInt32BE(at + 1);
      if (end > bytes.length) throw new Error("a field reaches beyond its payload");
      const values = this.#values.get(bytes.readUInt8(at)) ?? [];
      values.push(bytes.subarray(at + 5, end));
      this.#values.set(bytes.readUInt8(at), values);
      at = end;
    }
  }

  all(number: number): Buffer[] {
    return this.#values.get(number) ?? [];
  }

  text(number: number): string | undefined {
    return this.all(number)[0]?.toString();
  }

  int(number: number): number | undefined {
    const value = this.all(number)[0];
    return value && Number(value.readBigInt64BE());
  }

  flag(number: number): boolean {
    return this.all(number)[0]?.[0] === 1;
  }

  groups(number: number): RawFields[] {
    return this.all(number).map((value) => new RawFields(value));
  }
}

export function encodeFrame(
  type: FrameName | number,
  stream: number,
  payload: Uint8Array = Buffer.alloc(0),
  channel = 0,
): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(typeof type === "number" ? type : frameTypes.indexOf(type));
  header.writeUInt8(channel, 1);
  header.writeUInt32BE(stream, 4);
  header.writeUInt32BE(payload.length, 8);
  return Buffer.concat([header, payload, Buffer.of(END_MARK)]);
}

export function encodeHello(nonce: Uint8Array, version = 1): Buffer {
  const number = Buffer.alloc(2);
  number.writeUInt16BE(version);
  return encodeFrame("HELLO", 0, Buffer.concat([helloMagic, number, nonce]));
}

/** An OPEN, EVENT, RESULT or CONTROL payload. */
export function encodePayload(kind: number, fields: readonly FieldPair[] = []): Buffer {
  const number = Buffer.alloc(2);
  number.writeUInt16BE(kind);
  return Buffer.concat([number, encodeFields(fields)]);
}

/** The end of a stream. */
export interface RawResult {
  readonly status: StatusName;
  readonly fields: RawFields;
  readonly message: string | undefined;
}

/** Everything that a stream has brought. */
export interface Collected extends RawResult {
  readonly events: readonly { readonly kind: number; readonly fields: RawFields }[];
  /** Bytes per channel. */
  readonly data: readonly [Buffer, Buffer, Buffer, Buffer];
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: string;
}

function resultOf(frame: RawFrame): RawResult {
  const fields = new RawFields(frame.payload.subarray(2));
  const status = statuses[frame.payload.readUInt16BE()];
  if (status === undefined) throw new Error("unknown status");
  return { status, fields, message: fields.text(tag.message) };
}

export class RawStream {
  readonly id: number;
  readonly #link: RawLink;
  readonly #frames: RawFrame[] = [];
  #wake: () => void = () => {};

  constructor(link: RawLink, id: number) {
    this.#link = link;
    this.id = id;
  }

  /** Takes a frame that has arrived for this stream. */
  accept(frame: RawFrame): void {
    this.#frames.push(frame);
    this.#wake();
  }

  /** Payload bytes of DATA and EVENT frames that have arrived and were not taken. */
  get waitingBytes(): number {
    return this.#frames
      .filter(({ type }) => type === "DATA" || type === "EVENT")
      .reduce((sum, { payload }) => sum + payload.length, 0);
  }

  /** The next frame except WINDOW. No window is given back for it. */
  async next(): Promise<RawFrame> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame && frame.type !== "WINDOW") return frame;
      if (frame) continue;
      if (this.#link.failure) throw this.#link.failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Wakes the reader, because the link has failed. */
  fail(): void {
    this.#wake();
  }

  /** The payload bytes that the agent gives back next. */
  async credit(): Promise<number> {
    for (;;) {
      const at = this.#frames.findIndex(({ type }) => type === "WINDOW");
      const [frame] = at < 0 ? [] : this.#frames.splice(at, 1);
      if (frame) return frame.payload.readUInt32BE();
      if (this.#link.failure) throw this.#link.failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** The next event. Its bytes are given back. */
  async event(): Promise<{ kind: number; fields: RawFields }> {
    const frame = await this.next();
    if (frame.type !== "EVENT") {
      throw new Error(`expected an EVENT, got ${frame.type} ${frame.payload.toString("latin1").slice(0, 200)}`);
    }
    this.window(frame.payload.length);
    return { kind: frame.payload.readUInt16BE(), fields: new RawFields(frame.payload.subarray(2)) };
  }

  /** Everything up to the RESULT, with windows given back. */
  async collect(): Promise<Collected> {
    const events: { kind: number; fields: RawFields }[] = [];
    const parts: [Buffer[], Buffer[], Buffer[], Buffer[]] = [[], [], [], []];
    for (;;) {
      const frame = await this.next();
      if (frame.type === "DATA") parts[frame.channel as 0 | 1 | 2 | 3].push(frame.payload);
      if (frame.type === "EVENT") {
        events.push({ kind: frame.payload.readUInt16BE(), fields: new RawFields(frame.payload.subarray(2)) });
      }
      if (frame.type === "DATA" || frame.type === "EVENT") this.window(frame.payload.length);
      if (frame.type !== "RESULT") continue;
      const data = parts.map((part) => Buffer.concat(part)) as [Buffer, Buffer, Buffer, Buffer];
      const [, stdout, stderr, terminal] = data.map(String) as [string, string, string, string];
      return { ...resultOf(frame), events, data, stdout, stderr, terminal };
    }
  }

  /** Reads DATA of that channel until the text has come, giving windows back. */
  async until(text: string): Promise<string> {
    let seen = "";
    while (!seen.includes(text)) {
      const frame = await this.next();
      if (frame.type === "RESULT") throw new Error(`ended ${resultOf(frame).status} after ${JSON.stringify(seen)}`);
      if (frame.type === "DATA") seen += frame.payload.toString();
      if (frame.type === "DATA" || frame.type === "EVENT") this.window(frame.payload.length);
    }
    return seen;
  }

  data(bytes: string | Uint8Array): void {
    this.#link.send("DATA", this.id, Buffer.from(bytes));
  }

  end(): void {
    this.#link.send("END", this.id);
  }

  reset(): void {
    this.#link.send("RESET", this.id);
  }

  window(bytes: number): void {
    if (bytes === 0) return;
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.#link.send("WINDOW", this.id, payload);
  }

  control(kind: number, fields: readonly FieldPair[]): void {
    this.#link.send("CONTROL", this.id, encodePayload(kind, fields));
  }
}

/** One agent process and the socket to it. */
export class RawLink implements AsyncDisposable {
  readonly bytes: Duplex;
  readonly child: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** The reason why no more frames come. */
  failure: Error | undefined;
  /** The text that the agent wrote to stderr, such as sanitizers' reports. */
  errors = "";
  #nonce: Buffer | undefined;
  #welcomed: (frame: RawFrame) => void = () => {};
  #isInStep = false;
  #buffer = Buffer.alloc(0);
  #nextId = 1;
  readonly #streams = new Map<number, RawStream>();

  /** @param program An agent that `make` or `make asan` has built, or a program that runs the agent in its options. */
  constructor(program: string, options: readonly string[] = []) {
    this.child = spawn(program, [...options, "--fd", "3"], { stdio: ["ignore", "ignore", "pipe", "pipe"] });
    this.bytes = this.child.stdio[3] as Duplex;
    this.exited = new Promise((resolve) => this.child.once("exit", (code, signal) => resolve({ code, signal })));
    this.child.stderr?.on("data", (chunk) => {
      this.errors += chunk;
    });
    this.bytes.on("error", (error) => this.#fail(error));
    this.bytes.on("close", () => this.#fail(new Error(`the agent has closed the link ${this.errors}`)));
    this.bytes.on("data", (chunk: Buffer) => this.#take(chunk));
  }

  /** Sends preamble and HELLO, and waits for the WELCOME. Earlier streams are forgotten. */
  async hello(version = 1): Promise<RawFields> {
    const nonce = randomBytes(16);
    this.#nonce = nonce;
    this.#isInStep = false;
    this.#streams.clear();
    const welcome = new Promise<RawFrame>((resolve) => {
      this.#welcomed = resolve;
    });
    this.bytes.write(preamble);
    this.bytes.write(encodeHello(nonce, version));
    return new RawFields((await welcome).payload.subarray(16));
  }

  send(type: FrameName | number, stream: number, payload?: Uint8Array, channel = 0): void {
    this.bytes.write(encodeFrame(type, stream, payload, channel));
  }

  write(bytes: Uint8Array): void {
    this.bytes.write(bytes);
  }

  /** Enters a stream without opening it. */
  reserve(id = this.#nextId++): RawStream {
    const stream = new RawStream(this, id);
    this.#streams.set(id, stream);
    return stream;
  }

  open(operation: number, fields: readonly FieldPair[] = []): RawStream {
    const stream = this.reserve();
    this.send("OPEN", stream.id, encodePayload(operation, fields));
    return stream;
  }

  /** Opens a stream and waits until its RESULT. */
  async call(operation: number, fields: readonly FieldPair[] = []): Promise<Collected> {
    return this.open(operation, fields).collect();
  }

  /** Runs a shell command as root. */
  shell(script: string, more: readonly FieldPair[] = []): RawStream {
    return this.open(op.exec, [
      [tag.command, "/bin/sh"],
      [tag.argument, "-c"],
      [tag.argument, script],
      [tag.cwd, "/"],
      ...more,
    ]);
  }

  #fail(error: Error): void {
    this.failure ??= error;
    for (const stream of this.#streams.values()) stream.fail();
  }

  #take(chunk: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    if (!this.#isInStep && !this.#findWelcome()) return;
    for (let frame = this.#cut(); frame; frame = this.#cut()) {
      if (frame.type === "WELCOME") {
        this.#welcomed(frame);
        continue;
      }
      const stream = this.#streams.get(frame.stream);
      if (!stream) this.#fail(new Error(`a frame for stream ${frame.stream}, which is not open: ${frame.type}`));
      if (frame.type === "RESULT") this.#streams.delete(frame.stream);
      stream?.accept(frame);
    }
  }

  #findWelcome(): boolean {
    const at = this.#nonce ? this.#buffer.indexOf(this.#nonce) : -1;
    if (at < HEADER_BYTES) return false;
    this.#buffer = this.#buffer.subarray(at - HEADER_BYTES);
    this.#isInStep = true;
    return true;
  }

  #cut(): RawFrame | undefined {
    if (this.#buffer.length < HEADER_BYTES) return undefined;
    const length = this.#buffer.readUInt32BE(8);
    const type = frameTypes[this.#buffer.readUInt8()];
    const fromAgent = ["WELCOME", "DATA", "END", "EVENT", "RESULT", "WINDOW"];
    if (!type || !fromAgent.includes(type) || length > MAX_PAYLOAD || this.#buffer.readUInt16BE(2) !== 0) {
      throw new Error(`the agent broke the protocol: ${this.#buffer.subarray(0, 32).toString("hex")}`);
    }
    if (this.#buffer.length < HEADER_BYTES + length + 1) return undefined;
    const frame = this.#buffer.subarray(0, HEADER_BYTES + length + 1);
    if (frame.at(-1) !== END_MARK) throw new Error("a frame of the agent does not end in 0xA5");
    this.#buffer = this.#buffer.subarray(frame.length);
    return {
      type,
      channel: frame.readUInt8(1),
      stream: frame.readUInt32BE(4),
      payload: frame.subarray(HEADER_BYTES, -1),
    };
  }

  /**
   * Closes the link and waits for the end of the agent. @throws when the agent did not end well, as after a sanitizer's
   * report.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.bytes.destroy();
    const { code, signal } = await this.exited;
    if (code !== 0) throw new Error(`the agent ended with ${code ?? signal}:\n${this.errors}`);
  }
}
