/**
 * The taking up of sandboxes into a ledger that lost them: it is new, or a backup of before. What is found beside the
 * machines and the snapshots is newer than what such a ledger says, but for ends: a sandbox that had left stays gone.
 */
import { randomUUID } from "node:crypto";
import type { SandboxLogEntry, SandboxRecord } from "../types.ts";
import { insertAccessToken } from "./access-tokens.ts";
import type { Ledger } from "./open.ts";
import { appendSandboxLogs } from "./sandbox-logs.ts";
import { getSandbox, listSandboxes, sandboxParameters } from "./sandboxes.ts";
import { getSnapshot, type SnapshotFacts } from "./snapshots.ts";

/** A sandbox as it was found, running or paused. */
export interface FoundSandbox {
  readonly record: SandboxRecord;
  readonly accessToken: string;
  /** The whole snapshot that a paused one rests in; undefined for a running one. */
  readonly continuation?: { readonly folder: string; readonly facts: SnapshotFacts; readonly createdAtMs: number };
}

export interface TakeUp {
  readonly found: readonly FoundSandbox[];
  /** The path of the folder of a snapshot, whether it is there or not. */
  readonly folderOf: (snapshotId: string) => string;
  readonly isThere: (folder: string) => boolean;
  /** Goes into the log of every sandbox that is taken up. */
  readonly note: string;
}

/**
 * Takes up what was found, and ends paused sandboxes of the ledger that are nowhere to be found any more.
 * @returns the ids of both
 */
export function takeUpSandboxes(ledger: Ledger, { found, folderOf, isThere, note }: TakeUp) {
  return ledger.writeDurably(() => {
    const taken = found.filter(({ record }) => !hasLeft(ledger, record.id));
    for (const sandbox of taken) {
      putSnapshot(ledger, sandbox, folderOf, isThere);
      putSandbox(ledger, sandbox);
    }
    const takenIds = new Set(taken.map(({ record }) => record.id));
    const lost = listSandboxes(ledger, ["paused"]).filter(
      ({ id, snapshotId }) => !takenIds.has(id) && !isThere(getSnapshot(ledger, snapshotId)?.folder ?? ""),
    );
    for (const { id } of lost) endLost(ledger, id);
    const line = (sandboxId: string, level: SandboxLogEntry["level"], message: string) =>
      ({ sandboxId, atMs: ledger.nowMs(), level, message, fields: { logger: "sandbox", event: "taken_up" } }) as const;
    appendSandboxLogs(ledger, [
      ...taken.map(({ record }) => line(record.id, "warn", note)),
      ...lost.map(({ id }) => line(id, "error", "The ledger was rebuilt, and the sandbox was gone by then")),
    ]);
    return { taken: [...takenIds], lost: lost.map(({ id }) => id) };
  });
}

function hasLeft(ledger: Ledger, id: string): boolean {
  const state = getSandbox(ledger, id)?.state;
  return state === "terminating" || state === "terminated";
}

/** Makes sure that there is a row for the snapshot of a sandbox: ready for a paused one, else only a name. */
function putSnapshot(
  ledger: Ledger,
  { record, continuation }: FoundSandbox,
  folderOf: TakeUp["folderOf"],
  isThere: TakeUp["isThere"],
): void {
  const { id: sandboxId, snapshotId: id, templateId } = record;
  if (continuation) {
    const { folder, facts, createdAtMs } = continuation;
    ledger
      .statement(
        `insert into snapshots (id, kind, logical_id, folder, state, facts, reason, created_at_ms)
         values (:id, 'continuation', :sandboxId, :folder, 'ready', :facts, 'stopped', :createdAtMs)
         on conflict (id) do update set state = 'ready', folder = :folder, facts = :facts,
           quarantine_reason = null, quarantined_at_ms = null`,
      )
      .run({ id, sandboxId, folder, facts: JSON.stringify(facts), createdAtMs });
    return;
  }
  if (getSnapshot(ledger, id)) return;
  // The template that it belongs to is unknown, so nothing is restored from it; a person decides what becomes of it.
  const folder = folderOf(id);
  const state = isThere(folder) ? "quarantined" : "deleted";
  const reason = "the ledger was rebuilt, and does not know the template of this snapshot";
  ledger
    .statement(
      `insert into snapshots (id, kind, logical_id, folder, state, created_at_ms, quarantine_reason, quarantined_at_ms)
       values (:id, 'template', :templateId, :folder, :state, :nowMs, :reason, :nowMs)`,
    )
    .run({ id, templateId, folder, state, reason, nowMs: ledger.nowMs() });
}

/** Replaces what the ledger has of a sandbox and of its machine. */
function putSandbox(ledger: Ledger, { record, accessToken }: FoundSandbox): void {
  const { id, shape, machine } = record;
  const nowMs = ledger.nowMs();
  const run = (sql: string, more: Readonly<Record<string, string | number | null>> = {}) =>
    ledger.statement(sql).run({ id, nowMs, sessionId: machine?.sessionId ?? "", ...more });
  run("delete from sandboxes where id = :id or machine_session_id = :sessionId");
  run("delete from access_tokens where sandbox_id = :id");
  run("update reservations set state = 'released', released_at_ms = :nowMs where sandbox_id = :id and state = 'held'");
  // The machine may have waited in the pool when the backup was made.
  run(
    `update reservations set state = 'released', released_at_ms = :nowMs where state = 'held' and id in (
       select reservation_id from warm_entries where machine ->> '$.sessionId' = :sessionId)`,
  );
  run("update warm_entries set state = 'checked_out' where machine ->> '$.sessionId' = :sessionId");
  const reservationId = randomUUID();
  // Whatever the budgets say: the machine is there.
  run(
    `insert into reservations (id, kind, state, sandbox_id, vcpu_count, memory_mib, disk_mib, created_at_ms,
       released_at_ms)
     values (:reservationId, 'active', :state, :id, :vcpuCount, :memoryMiB, :diskMiB, :nowMs, :releasedAtMs)`,
    { ...shape, reservationId, state: machine ? "held" : "released", releasedAtMs: machine ? null : nowMs },
  );
  run(
    `insert into sandboxes (id, template_id, template_alias, snapshot_id, state, metadata, envs, default_user, workdir,
       vcpu_count, memory_mib, disk_mib, allow_internet_access, ingress, on_timeout, keep_memory, auto_resume,
       timeout_ms, started_at_ms, end_at_ms, machine, reservation_id, end_reason)
     values (:id, :templateId, :templateAlias, :snapshotId, :state, :metadata, :envs, :user, :workdir, :vcpuCount,
       :memoryMiB, :diskMiB, :allowInternetAccess, :ingress, :onTimeout, :keepMemory, :autoResume, :timeoutMs,
       :startedAtMs, :endAtMs, :machine, :reservationId, null)`,
    { ...sandboxParameters(record, machine), state: record.state, reservationId },
  );
  insertAccessToken(ledger, id, accessToken);
}

function endLost(ledger: Ledger, id: string): void {
  ledger
    .statement("update sandboxes set state = 'terminated', end_reason = 'lost', end_at_ms = :nowMs where id = :id")
    .run({ id, nowMs: ledger.nowMs() });
}
