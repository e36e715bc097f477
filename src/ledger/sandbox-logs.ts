/**
 * The logs of sandboxes and their commands: the newest lines of each sandbox. Lines are written in batches and not
 * synced, so a crash may lose the last ones. `history.ts` removes them with their sandbox.
 */
import type { SandboxLogEntry } from "../types.ts";
import { fromJson, textMap } from "./json-columns.ts";
import type { Ledger } from "./open.ts";

/** The number of lines of each sandbox. Older lines make room. */
const logLinesKept = 2_000;

export interface SandboxLogQuery {
  readonly sandboxId: string;
  /** Only lines at this time and later. `toMs`: only lines at this time and earlier. */
  readonly fromMs?: number | undefined;
  readonly toMs?: number | undefined;
  /** Only lines of one of these levels. */
  readonly levels: readonly SandboxLogEntry["level"][];
  /** Only lines with exactly this text in their message. Empty: every line. */
  readonly search: string;
  readonly order: "asc" | "desc";
  readonly limit: number;
}

/** Adds lines, in one transaction, and drops the oldest of their sandboxes beyond `kept`. */
export function appendSandboxLogs(
  ledger: Ledger,
  entries: readonly SandboxLogEntry[],
  kept: number = logLinesKept,
): void {
  if (entries.length === 0) return;
  ledger.write(() => {
    const newest = new Map<string, number>();
    for (const { sandboxId, atMs, level, message, fields } of entries) {
      const number = (newest.get(sandboxId) ?? newestNumber(ledger, sandboxId)) + 1;
      newest.set(sandboxId, number);
      ledger
        .statement(
          `insert into sandbox_logs (sandbox_id, number, at_ms, level, message, fields)
           values (:sandboxId, :number, :atMs, :level, :message, :fields)`,
        )
        .run({ sandboxId, number, atMs, level, message, fields: JSON.stringify(fields) });
    }
    for (const [sandboxId, number] of newest) {
      ledger
        .statement("delete from sandbox_logs where sandbox_id = :sandboxId and number <= :tooOld")
        .run({ sandboxId, tooOld: number - kept });
    }
  });
}

/** Lines of one sandbox, in the order in which they were written or in reverse. */
export function readSandboxLogs(ledger: Ledger, query: SandboxLogQuery): SandboxLogEntry[] {
  const { sandboxId, fromMs = 0, toMs = Number.MAX_SAFE_INTEGER, levels, search, order, limit } = query;
  const rows = ledger
    .statement<Omit<SandboxLogEntry, "fields"> & { readonly number: number; readonly fields: string }>(
      `select sandbox_id as sandboxId, number, at_ms as atMs, level, message, fields from sandbox_logs
       where sandbox_id = :sandboxId and at_ms between :fromMs and :toMs
       and level in (select value from json_each(:levels)) and (:search = '' or instr(message, :search) > 0)
       order by number ${order} limit :limit`,
    )
    .all({ sandboxId, fromMs, toMs, levels: JSON.stringify(levels), search, limit });
  return rows.map(({ number, fields, ...row }) => ({
    ...row,
    fields: fromJson(textMap, fields, `sandbox_logs.fields of ${sandboxId}, ${number}`),
  }));
}

function newestNumber(ledger: Ledger, sandboxId: string): number {
  const newest = ledger
    .statement<{ number: number | null }>(
      "select max(number) as number from sandbox_logs where sandbox_id = :sandboxId",
    )
    .get({ sandboxId });
  return newest?.number ?? 0;
}
