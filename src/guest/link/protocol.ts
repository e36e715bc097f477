/** The numbers of the guest link protocol, version 1. `src/guest-agent/README.md` is their source and explains them. */
import { DomainError } from "../../errors.ts";

export const PROTOCOL_VERSION = 1;
/** Most bytes of payload in one frame. */
export const MAX_PAYLOAD = 32_768;
/** Most bytes of fields in all OPEN frames of one stream. */
export const MAX_OPEN = 1_048_576;
/** The bit of an OPEN's operation that says that more fields follow in the next OPEN of the stream. */
export const OPEN_CONTINUES = 0x8000;
/** Payload bytes of DATA and EVENT frames that may be under way in one direction of a stream. */
export const INITIAL_WINDOW = 262_144;
/** Streams that the agent keeps open at once. */
export const MAX_STREAMS = 1_024;
/** Zero bytes that the host sends first, to complete a half frame that an earlier host may have left behind. */
export const PREAMBLE_BYTES = 32_800;
export const NONCE_BYTES = 16;
/** The first eight payload bytes of HELLO: "firkin", 0, 1. */
export const HELLO_MAGIC: Uint8Array = Uint8Array.of(0x66, 0x69, 0x72, 0x6b, 0x69, 0x6e, 0x00, 0x01);

export const FrameType = {
  hello: 1,
  welcome: 2,
  open: 3,
  data: 4,
  end: 5,
  event: 6,
  result: 7,
  window: 8,
  reset: 9,
  control: 10,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

/** `channel` of a DATA frame. */
export const Channel = { bytes: 0, stdout: 1, stderr: 2, terminal: 3 } as const;

export const Operation = {
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
export type Operation = (typeof Operation)[keyof typeof Operation];

export const EventKind = { started: 1, entry: 2, entries: 3, changed: 4, processes: 5, mark: 6 } as const;
export type EventKind = (typeof EventKind)[keyof typeof EventKind];

export const ControlKind = { resize: 1, mark: 2 } as const;

export const Tag = {
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
  marks: 51,
} as const;
export type Tag = (typeof Tag)[keyof typeof Tag];

/** The error for a guest that broke the protocol, which ends its link and is a failure of that one machine. */
export function protocolError(message: string): DomainError {
  return new DomainError("machine_failed", `The guest broke the link protocol: ${message}`);
}
