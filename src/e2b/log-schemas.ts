/** The queries and answers of sandbox logs, in E2B's own spelling, and the functions that make the answers. */
import { z } from "zod";
import type { SandboxLogEntry } from "../types.ts";
import { wholeNumber } from "./query-values.ts";
import { LogLevel } from "./template-schemas.ts";

const text = z.string();
const maxLines = 1_000;
const instantMs = wholeNumber(z.int().min(0)).optional().describe("milliseconds since the epoch");

/** `GET /sandboxes/{sandboxID}/logs`. A limit above the largest page is accepted there, as E2B does. */
export const SandboxLogsQueryV1 = z.object({
  start: instantMs,
  limit: wholeNumber(z.int().min(0))
    .default(maxLines)
    .transform((limit) => Math.min(limit, maxLines)),
});

/** `GET /v2/sandboxes/{sandboxID}/logs`. */
export const SandboxLogsQueryV2 = z.object({
  cursor: instantMs,
  limit: wholeNumber(z.int().min(0).max(maxLines)).default(maxLines),
  direction: z.enum(["forward", "backward"]).default("backward"),
  level: LogLevel.optional().describe("this level and those above it"),
  search: text.max(256).default("").describe("a text that the message contains, with upper and lower case as given"),
});

const SandboxLogEntrySchema = z
  .object({ timestamp: text, message: text, level: LogLevel, fields: z.record(text, text) })
  .meta({ id: "SandboxLogEntry" });
type SandboxLogRow = z.infer<typeof SandboxLogEntrySchema>;

export const SandboxLogs = z
  .object({
    logs: z.array(z.object({ timestamp: text, line: text.describe("JSON") }).meta({ id: "SandboxLog" })),
    logEntries: z.array(SandboxLogEntrySchema),
  })
  .meta({ id: "SandboxLogs" });
type SandboxLogs = z.infer<typeof SandboxLogs>;

export const SandboxLogsV2Response = z
  .object({ logs: z.array(SandboxLogEntrySchema) })
  .meta({ id: "SandboxLogsV2Response" });

/** The older form has each line as JSON too, which E2B's command line prints key by key. */
export function toSandboxLogs(entries: readonly SandboxLogEntry[]): SandboxLogs {
  return {
    logs: entries.map(({ atMs, level, message, fields }) => ({
      timestamp: toTime(atMs),
      line: JSON.stringify({ ...fields, level, message }),
    })),
    logEntries: entries.map(toSandboxLogRow),
  };
}

export function toSandboxLogRow({ atMs, level, message, fields }: SandboxLogEntry): SandboxLogRow {
  return { timestamp: toTime(atMs), message, level, fields: { ...fields } };
}

function toTime(atMs: number): string {
  return new Date(atMs).toISOString();
}
