/**
 * The quarantine lists files, folders and machines that a starting daemon could not name. `snapshots.ts` has damaged
 * snapshots.
 */
import type { MachineRecord } from "../types.ts";
import { machineFromJson, machineToJson } from "./json-columns.ts";
import type { Ledger } from "./open.ts";

export interface QuarantineEntry {
  readonly id: string;
  readonly kind: "file" | "folder" | "machine";
  /** The name under which it was found. */
  readonly name: string;
  readonly reason: string;
  /** The running machine; null for the other kinds. */
  readonly machine: MachineRecord | null;
  readonly atMs: number;
}

interface QuarantineRow {
  readonly id: string;
  readonly kind: QuarantineEntry["kind"];
  readonly name: string;
  readonly reason: string;
  readonly machine: string | null;
  readonly at_ms: number;
}

export function insertQuarantineEntry(ledger: Ledger, entry: Omit<QuarantineEntry, "atMs">): void {
  ledger.write(() => {
    ledger
      .statement(
        `insert into quarantine (id, kind, name, reason, machine, at_ms)
         values (:id, :kind, :name, :reason, :machine, :nowMs)`,
      )
      .run({ ...entry, machine: machineToJson(entry.machine), nowMs: ledger.nowMs() });
  });
}

/** Oldest first. */
export function listQuarantineEntries(ledger: Ledger): QuarantineEntry[] {
  return ledger
    .statement<QuarantineRow>("select * from quarantine order by at_ms, rowid")
    .all({})
    .map(({ at_ms, machine, ...row }) => ({
      ...row,
      machine: machineFromJson(machine, `quarantine.machine of ${row.id}`),
      atMs: at_ms,
    }));
}

/** Idempotent. */
export function deleteQuarantineEntry(ledger: Ledger, id: string): void {
  ledger.write(() => void ledger.statement("delete from quarantine where id = :id").run({ id }));
}
