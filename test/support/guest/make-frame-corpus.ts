/**
 * The maker of test/corpus/frames: bytes that both decoders must judge alike. Run it with tsx after adding a case, and
 * commit.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { encodeFields, encodeFrame, encodeHello, encodePayload, frameTypes, op, tag } from "./raw-link.ts";

const folder = fileURLToPath(new URL("../../corpus/frames/", import.meta.url));

interface Verdict {
  readonly file: string;
  readonly about: string;
  readonly frames: readonly FrameLine[];
  /** The end of the bytes: an error, at the offset of its frame, or an incomplete frame of so many bytes. */
  readonly end: { readonly error: string; readonly offset: number } | { readonly incompleteBytes: number };
}

interface FrameLine {
  readonly type: string;
  readonly channel: number;
  readonly stream: number;
  readonly length: number;
  /** FNV-1a of the payload, 32 bits, hexadecimal. */
  readonly hash: string;
}

function fnv1a(bytes: Uint8Array): string {
  let hash = 2_166_136_261;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 16_777_619) >>> 0;
  return hash.toString(16).padStart(8, "0");
}

function lineOf(frame: Buffer): FrameLine {
  return {
    type: frameTypes[frame.readUInt8()] ?? "",
    channel: frame.readUInt8(1),
    stream: frame.readUInt32BE(4),
    length: frame.readUInt32BE(8),
    hash: fnv1a(frame.subarray(12, -1)),
  };
}

const verdicts: Verdict[] = [];

function add(name: string, about: string, before: readonly Buffer[], rest: Buffer, end: Verdict["end"]): void {
  const file = `${"error" in end ? "bad" : "good"}/${name}.bin`;
  writeFileSync(`${folder}${file}`, Buffer.concat([...before, rest]));
  verdicts.push({ file, about, frames: before.filter(({ length }) => length > 12).map(lineOf), end });
}

function good(name: string, about: string, frames: readonly Buffer[], rest: Buffer = Buffer.alloc(0)) {
  add(name, about, frames, rest, { incompleteBytes: rest.length });
}

function bad(name: string, error: string, before: readonly Buffer[], rest: Buffer) {
  const offset = before.reduce((sum, { length }) => sum + length, 0);
  add(name, `${error} after ${before.length} good frames`, before, rest, { error, offset });
}

/** A frame with one byte changed. A negative offset counts from the end. */
function broken(frame: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(frame);
  copy.writeUInt8(value, at < 0 ? frame.length + at : at);
  return copy;
}

const nonce = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
const hello = encodeHello(nonce);
const welcome = encodeFrame(
  "WELCOME",
  0,
  Buffer.concat([
    nonce,
    encodeFields([
      [tag.version, 1],
      [tag.agentVersion, "0.1.0"],
      [tag.bootId, "a-boot"],
    ]),
  ]),
);
const ping = encodeFrame("OPEN", 1, encodePayload(op.ping));
const exec = encodeFrame(
  "OPEN",
  2,
  encodePayload(op.exec, [
    [tag.command, "/bin/echo"],
    [tag.argument, "häß"],
    [tag.env, "A=1"],
    [tag.cwd, "~"],
  ]),
);
const full = encodeFrame("DATA", 3, Buffer.alloc(32_768, 0xa5), 2);
const window = encodeFrame("WINDOW", 0xffff_ffff, Buffer.of(0, 4, 0, 0));

rmSync(folder, { recursive: true, force: true });
mkdirSync(`${folder}good`, { recursive: true });
mkdirSync(`${folder}bad`, { recursive: true });

good("nothing", "no bytes at all", []);
good("hello", "the frame that begins a connection", [hello]);
good("welcome", "the answer to that", [welcome]);
good("every-type", "one frame of each type", [
  hello,
  welcome,
  ping,
  encodeFrame("DATA", 1, Buffer.from("x"), 3),
  encodeFrame("END", 1),
  encodeFrame("EVENT", 1, encodePayload(1, [[tag.pid, 7]])),
  encodeFrame("RESULT", 1, encodePayload(0)),
  window,
  encodeFrame("RESET", 1),
  encodeFrame("CONTROL", 1, encodePayload(1, [])),
]);
good("exec", "fields with text that is not ASCII", [exec]);
good("full-payload", "the longest payload, all of end marks", [full, ping]);
good("empty-data", "DATA without bytes", [encodeFrame("DATA", 9)]);
good("pads", "pad bytes before, between and after frames", [
  Buffer.alloc(7),
  ping,
  Buffer.alloc(5),
  exec,
  Buffer.alloc(3),
]);
good("half-header", "the beginning of a header", [ping], exec.subarray(0, 11));
good("half-bad-header", "a header that will be bad is judged when it is whole", [ping], Buffer.of(0xff, 0xff, 0xff));
good("half-payload", "a frame without its last byte", [hello], exec.subarray(0, -1));
good("wrong-meaning", "frames that only the layer above refuses: an empty OPEN, WINDOW of 1 byte, HELLO on stream 5", [
  encodeFrame("OPEN", 0),
  encodeFrame("WINDOW", 1, Buffer.of(1)),
  encodeFrame("HELLO", 5, Buffer.from("nonsense")),
]);

bad("type-11", "unknown_type", [ping], broken(exec, 0, 11));
bad("type-255", "unknown_type", [], broken(hello, 0, 255));
bad("type-and-all", "unknown_type", [], Buffer.alloc(64, 0xff));
bad("channel-4", "bad_channel", [], broken(encodeFrame("DATA", 1, Buffer.from("x")), 1, 4));
bad("channel-of-open", "bad_channel", [ping], broken(exec, 1, 1));
bad("channel-before-reserved", "bad_channel", [], broken(broken(exec, 1, 1), 2, 1));
bad("reserved-high", "reserved_not_zero", [ping, exec], broken(ping, 2, 1));
bad("reserved-low", "reserved_not_zero", [], broken(ping, 3, 0x80));
bad("too-long-by-1", "too_long", [ping], encodeFrame("DATA", 1, Buffer.alloc(32_769)));
bad("too-long-by-far", "too_long", [], broken(ping, 8, 0xff));
bad("too-long-header-only", "too_long", [], broken(ping, 8, 1).subarray(0, 12));
bad("end-mark-0", "bad_end_mark", [ping], broken(exec, -1, 0));
bad("end-mark-a4", "bad_end_mark", [], broken(full, -1, 0xa4));
bad("torn-frame", "bad_end_mark", [ping], Buffer.concat([full.subarray(0, 1_000), Buffer.alloc(32_800), hello]));
bad("text", "unknown_type", [], Buffer.from("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"));

writeFileSync(`${folder}manifest.json`, `${JSON.stringify(verdicts, undefined, 1)}\n`);
