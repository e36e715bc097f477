/**
 * The protocol of the WebSockets `/sandboxes/{id}/terminal` and `/sandboxes/{id}/processes`: the schema and the type of
 * every text message in both directions, the channels of binary messages, and the close codes. It imports zod alone, so
 * that a client may import it too. docs/websocket-protocol.md says what the messages mean.
 */
import { z } from "zod";

/** Linux's signal numbers, whatever system the daemon runs on. */
export const signalNumbers = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGUSR2: 12,
  SIGTERM: 15,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
} as const;
export type SignalName = keyof typeof signalNumbers;

/** The first byte of a binary message from the daemon names the channel that the output after it belongs to. */
export const channelNumbers = { stdout: 1, stderr: 2, terminal: 3 } as const;

/** The close codes of the protocol. Every other failure closes with `errorBase` plus the HTTP status of its error. */
export const closeCodes = {
  /** The process has ended. From a client on a terminal: hang up. */
  done: 1_000,
  daemonStops: 1_001,
  messageTooLong: 1_009,
  errorBase: 4_000,
  noFirstMessage: 4_408,
} as const;

const noNul = z.string().regex(/^[^\0]*$/, "must have no NUL");
const side = z.int().min(1).max(65_535);
const size = { columns: side, rows: side };
const command = {
  args: z.array(noNul).default([]),
  envs: z.record(z.string().regex(/^[^=\0]+$/, "must not be empty and must have no '=' and no NUL"), noNul).default({}),
  cwd: noNul.min(1).optional(),
  user: noNul.min(1).optional(),
  tag: noNul.min(1).optional(),
  /** The process is killed this long after its start. */
  timeoutMs: z.int().min(1).max(2_147_483_647).optional(),
};

const attach = z.strictObject({
  type: z.literal("attach"),
  pid: z.int().min(1),
  /** The place at which an earlier connection stopped: its `stream`, and the number of bytes of output that came. */
  resume: z.strictObject({ stream: z.string().max(64), offset: z.int().min(0) }).optional(),
});

/** The first message of a client, by the kind of its WebSocket: it starts a process or attaches to one. */
export const firstMessage = {
  terminal: z.discriminatedUnion("type", [
    z.strictObject({ type: z.literal("start"), ...size, ...command, command: noNul.min(1).optional() }),
    attach,
  ]),
  processes: z.discriminatedUnion("type", [
    z.strictObject({
      type: z.literal("start"),
      ...command,
      command: noNul.min(1),
      /** False: the process reads end of file at once. */
      stdin: z.boolean().default(true),
    }),
    attach,
  ]),
};
export type ProcessSocketKind = keyof typeof firstMessage;
type FirstMessageSchema = (typeof firstMessage)[ProcessSocketKind];
/** As the daemon reads it, with every default filled in. */
export type FirstMessage = z.output<FirstMessageSchema>;

/** Every later text message of a client. */
export const laterMessage = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("signal"), signal: z.enum(Object.keys(signalNumbers) as SignalName[]) }),
  z.strictObject({ type: z.literal("closeStdin") }),
  z.strictObject({ type: z.literal("resize"), ...size }),
  // A browser reads every message that comes, so a page that cannot keep up has to say so.
  z.strictObject({ type: z.literal("pause") }),
  z.strictObject({ type: z.literal("resume") }),
]);
export type LaterMessage = z.output<typeof laterMessage>;

/** A text message of a client as the client writes it: values with a default may be left out. */
export type ClientMessage = z.input<FirstMessageSchema> | z.input<typeof laterMessage>;

/** Output from `offset` on follows. */
const greeting = { pid: z.int(), stream: z.string(), offset: z.int() };
/** A text message of the daemon. */
export const serverMessage = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("started"), ...greeting }),
  z.strictObject({ type: z.literal("attached"), ...greeting }),
  /** Output between was lost. `to` is null when its amount is unknown, because `stream` is not the one asked for. */
  z.strictObject({ type: z.literal("gap"), from: z.int(), to: z.int().nullable() }),
  /** `exitCode` is -1 when a signal ended the process; then `exited` is false and `signal` is the signal's number. */
  z.strictObject({ type: z.literal("end"), exitCode: z.int(), exited: z.boolean(), signal: z.int().optional() }),
  /** `code` is one of docs/errors.md. */
  z.strictObject({ type: z.literal("error"), code: z.string(), message: z.string() }),
]);
export type ServerMessage = z.output<typeof serverMessage>;
