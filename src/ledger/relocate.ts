/** The ledger's absolute paths follow the state folder, which a person may have moved while no daemon ran. */
import { basename, join } from "node:path";
import type { Ledger } from "./open.ts";

const machineTables = ["sandboxes", "warm_entries", "template_build_jobs", "quarantine"] as const;

/** Sets the folders of all snapshots and machines to where they are now, by their own names. Durable; idempotent. */
export function followStateFolder(
  ledger: Ledger,
  { snapshotsFolder, machinesFolder }: { readonly snapshotsFolder: string; readonly machinesFolder: string },
): void {
  const snapshots = ledger
    .statement<{ id: string; folder: string }>("select id, folder from snapshots where state <> 'deleted'")
    .all({})
    .map(({ id, folder }) => ({ id, folder, now: join(snapshotsFolder, basename(folder)) }))
    .filter(({ folder, now }) => folder !== now);
  const isElsewhere = `machine is not null and machine ->> '$.folder' <> :folder || '/' || (machine ->> '$.sessionId')`;
  const moved = machineTables.filter(
    (table) =>
      ledger.statement(`select 1 from ${table} where ${isElsewhere} limit 1`).all({ folder: machinesFolder }).length,
  );
  if (snapshots.length + moved.length === 0) return;
  ledger.writeDurably(() => {
    for (const { id, now } of snapshots) {
      ledger.statement("update snapshots set folder = :now where id = :id").run({ id, now });
    }
    for (const table of moved) {
      ledger
        .statement(
          `update ${table} set machine = json_set(machine, '$.folder', :folder || '/' || (machine ->> '$.sessionId'))
           where ${isElsewhere}`,
        )
        .run({ folder: machinesFolder });
    }
  });
}
