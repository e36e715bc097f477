/** Migration 4 makes two tables anew, and the rows of an older ledger are there afterwards. */
import { cp, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { usage } from "../../src/ledger/capacity.ts";
import { openLedger } from "../../src/ledger/open.ts";
import { recordSamples, summarizeSamples } from "../../src/ledger/samples.ts";
import { getSandbox, moveSandbox } from "../../src/ledger/sandboxes.ts";
import { machineOf } from "./support.ts";

const migrations = new URL("../../migrations/", import.meta.url).pathname;

test("sandboxes of an older ledger are kept with everything they had, and may be stopped", async () => {
  const folder = await mkdtemp(join(tmpdir(), "firkin-migration-"));
  const older = join(folder, "older/");
  for (const name of (await readdir(migrations)).filter((each) => /^000[123]-/.test(each))) {
    await cp(join(migrations, name), join(older, name));
  }
  const path = join(folder, "ledger.db");
  {
    using ledger = openLedger(path, { migrationsFolder: pathToFileURL(older) });
    const run = (sql: string, values = {}) => ledger.write(() => void ledger.statement(sql).run(values));
    run(
      `insert into reservations (id, kind, state, sandbox_id, vcpu_count, memory_mib, disk_mib, created_at_ms)
       values ('r', 'active', 'held', 'i1', 2, 512, 8192, 1)`,
    );
    run(
      `insert into snapshots (id, kind, logical_id, folder, state, facts, quarantine_reason, created_at_ms)
       values ('s', 'template', 't', '/s', 'quarantined', null, 'bad', 7)`,
    );
    run(
      `insert into sandboxes (id, template_id, template_alias, snapshot_id, state, metadata, envs, vcpu_count, memory_mib,
         disk_mib, allow_internet_access, on_timeout, auto_resume, timeout_ms, started_at_ms, end_at_ms, machine,
         reservation_id) values ('i1', 't', 'base', 's', 'running', '{"a":"b"}', '{"A":"1"}', 2, 512, 8192, 0, 'pause',
         1, 9000, 3, 4, :machine, 'r')`,
      { machine: JSON.stringify(machineOf("m")) },
    );
  }
  using ledger = openLedger(path);
  expect(getSandbox(ledger, "i1")).toEqual({
    id: "i1",
    templateId: "t",
    templateAlias: "base",
    snapshotId: "s",
    state: "running",
    metadata: { a: "b" },
    envs: { A: "1" },
    defaults: { user: "user", workdir: "" },
    shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 },
    allowInternetAccess: false,
    ingress: { allowPublicTraffic: true, maskRequestHost: null },
    lifecycle: { onTimeout: "pause", keepMemory: true, autoResume: true, timeoutMs: 9000 },
    startedAtMs: 3,
    endAtMs: 4,
    machine: machineOf("m"),
    reservationId: "r",
    endReason: null,
  });
  moveSandbox(ledger, "i1", "running", "terminating", { endReason: "stopped" });
  moveSandbox(ledger, "i1", "terminating", "terminated");
  expect(usage(ledger).active.sandboxes).toBe(0);
  const at = { engine: "qemu", acceleration: "none", sandboxId: null, atMs: 1 } as const;
  recordSamples(ledger, [{ span: "kill_delete", scenario: "stopped", durationMs: 1, ...at }]);
  expect(summarizeSamples(ledger)).toMatchObject([{ scenario: "stopped", n: 1 }]);
  await rm(folder, { recursive: true });
});
