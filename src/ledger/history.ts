/** The purge keeps the ledger small: it forgets rows that have ended, and rows that only those referred to. */
import type { Ledger } from "./open.ts";

export interface PurgeCounts {
  readonly sandboxes: number;
  readonly warmEntries: number;
  readonly reservations: number;
  readonly snapshots: number;
}

/**
 * Forgets sandboxes that ended before `endedBeforeMs`, all but the newest `keep` of the other ended ones, and rows that
 * only those referred to: logs, idempotency keys and access tokens, used warm entries, released reservations, deleted
 * snapshots and their builds. Of client builds that ended before `endedBeforeMs` it forgets the logs. Rows that are
 * live, held, ready or quarantined stay.
 */
export function purgeEnded(
  ledger: Ledger,
  { endedBeforeMs, keep }: { endedBeforeMs: number; keep: number },
): PurgeCounts {
  const run = (sql: string) => ledger.statement(sql).run({ endedBeforeMs, keep }).changes;
  return ledger.write(() => {
    const sandboxes = run(
      `delete from sandboxes where state = 'terminated' and (end_at_ms < :endedBeforeMs or id not in (
         select id from sandboxes where state = 'terminated' order by end_at_ms desc, id limit :keep))`,
    );
    run("delete from sandbox_logs where sandbox_id not in (select id from sandboxes)");
    run("delete from idempotency_keys where sandbox_id not in (select id from sandboxes)");
    run("delete from access_tokens where sandbox_id not in (select id from sandboxes where state <> 'terminated')");
    const warmEntries = run(
      `delete from warm_entries where state = 'checked_out' or (state = 'discarded' and reservation_id in (
         select id from reservations where state = 'released'))`,
    );
    const reservations = run(
      `delete from reservations where state = 'released'
       and id not in (select reservation_id from sandboxes) and id not in (select reservation_id from warm_entries)`,
    );
    run(
      `delete from template_builds where snapshot_id in (select id from snapshots where state = 'deleted')
       and id not in (select build_id from template_tags)`,
    );
    run("update template_build_jobs set log = null where log is not null and finished_at_ms < :endedBeforeMs");
    const snapshots = run(
      `delete from snapshots where state = 'deleted' and id not in (select snapshot_id from sandboxes)
       and id not in (select snapshot_id from warm_entries) and id not in (select snapshot_id from template_builds)`,
    );
    return { sandboxes, warmEntries, reservations, snapshots };
  });
}
