/** Reads a client's messages on a WebSocket to a process, and writes the binary ones of the daemon. */
import type { z } from "zod";
import { DomainError } from "../../src/errors.ts";
import type { OutputChannel } from "../../src/guest/agent.ts";
import {
  channelNumbers,
  type FirstMessage,
  firstMessage,
  type LaterMessage,
  laterMessage,
  type ProcessSocketKind,
} from "./process-protocol.ts";

/** @throws DomainError `invalid_argument` */
export function parseFirstMessage(kind: ProcessSocketKind, text: string): FirstMessage {
  return kind === "terminal" ? parse(firstMessage.terminal, text) : parse(firstMessage.processes, text);
}

/** @throws DomainError `invalid_argument` */
export function parseLaterMessage(text: string): LaterMessage {
  return parse(laterMessage, text);
}

/** A binary message: one byte that names the channel, then the bytes that the process wrote. */
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
