/**
 * The messages of the WebSockets `/sandboxes/{id}/terminal` and `/sandboxes/{id}/processes`, as `src/README.md` describes
 * them. What comes from a client is parsed here; a binary message is input as it is.
 */
import { z } from "zod";
import { DomainError } from "../../src/errors.ts";
import type { OutputChannel } from "../../src/guest/agent.ts";
import type { ProcessEnd } from "../../src/types.ts";

/** Linux's numbers, whatever the host is. */
const signalNumbers = {
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
type SignalName = keyof typeof signalNumbers;

const noNul = z.string().regex(/^[^\0]*$/, "must have no NUL");
const side = z.int().min(1).max(65_535);
const size = { columns: side, rows: side };
const command = {
  args: z.array(noNul).default([]),
  envs: z.record(z.string().regex(/^[^=\0]+$/, "must not be empty and must have no '=' and no NUL"), noNul).default({}),
  cwd: noNul.min(1).optional(),
  user: noNul.min(1).optional(),
  tag: noNul.min(1).optional(),
  /** The process is killed so long after its start. */
  timeoutMs: z.int().min(1).max(2_147_483_647).optional(),
};

const attach = z.strictObject({
  type: z.literal("attach"),
  pid: z.int().min(1),
  /** Where an earlier connection stopped: its `stream`, and how many bytes of output it got. */
  resume: z.strictObject({ stream: z.string().max(64), offset: z.int().min(0) }).optional(),
});
const first = {
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
const later = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("signal"), signal: z.enum(Object.keys(signalNumbers) as SignalName[]) }),
  z.strictObject({ type: z.literal("closeStdin") }),
  z.strictObject({ type: z.literal("resize"), ...size }),
  // Browsers read whatever comes: a page that cannot keep up says so.
  z.strictObject({ type: z.literal("pause") }),
  z.strictObject({ type: z.literal("resume") }),
]);

export type ProcessSocketKind = keyof typeof first;
/** What a client says first: a process to start, or one to attach to. */
export type FirstMessage = z.infer<(typeof first)[ProcessSocketKind]>;
export type LaterMessage = z.infer<typeof later>;

export type ServerMessage =
  /** `offset` is that of the first byte of output that follows. */
  | { readonly type: "started"; readonly pid: number; readonly stream: string; readonly offset: number }
  | { readonly type: "attached"; readonly pid: number; readonly stream: string; readonly offset: number }
  /** Output between was lost. `to` is null when nobody knows how much: `stream` is not the one that was asked for. */
  | { readonly type: "gap"; readonly from: number; readonly to: number | null }
  | ({ readonly type: "end" } & ProcessEnd)
  | { readonly type: "error"; readonly code: string; readonly message: string };

/** @throws invalid_argument */
export function parseFirstMessage(kind: ProcessSocketKind, text: string): FirstMessage {
  return kind === "terminal" ? parse(first.terminal, text) : parse(first.processes, text);
}

/** @throws invalid_argument */
export function parseLaterMessage(text: string): LaterMessage {
  return parse(later, text);
}

export function signalNumber(name: SignalName): number {
  return signalNumbers[name];
}

const channelNumbers: Readonly<Record<OutputChannel, number>> = { stdout: 1, stderr: 2, terminal: 3 };

/** A binary message: one byte that names the channel, then what the process wrote. */
export function encodeOutput(channel: OutputChannel, bytes: Uint8Array): Buffer {
  const message = Buffer.allocUnsafe(1 + bytes.byteLength);
  message[0] = channelNumbers[channel];
  message.set(bytes, 1);
  return message;
}

function parse<T>(schema: z.ZodType<T>, text: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new DomainError("invalid_argument", "a text message must be JSON");
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new DomainError("invalid_argument", `${issue?.path.join(".") || "message"}: ${issue?.message}`);
}
