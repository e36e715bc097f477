/** The fake wiring: everything that a daemon has below its runtime, over a fake host, for all tests of the runtime. */
import { join } from "node:path";
import { type Logger, pino } from "pino";
import type { Clock } from "../../../src/clock.ts";
import { newAccessToken } from "../../../src/e2b/access-token.ts";
import { newSandboxId, newTemplateId } from "../../../src/e2b/ids.ts";
import { factsOf } from "../../../src/guest-machine/save.ts";
import type { CapacityBudgets } from "../../../src/ledger/capacity.ts";
import type { Ledger } from "../../../src/ledger/open.ts";
import { markSnapshotReady, registerSnapshot } from "../../../src/ledger/snapshots.ts";
import { insertTemplate, publishBuild } from "../../../src/ledger/templates.ts";
import { createMetrics } from "../../../src/metrics.ts";
import { Admission } from "../../../src/runtime/capacity/admission.ts";
import type { QueueBounds } from "../../../src/runtime/capacity/admission-plan.ts";
import { type DiskFloors, DiskPressureGuard, type DiskSpace } from "../../../src/runtime/capacity/disk-guard.ts";
import type { CreateSandboxRequest } from "../../../src/runtime/contract.ts";
import type { RuntimeDependencies } from "../../../src/runtime/dependencies.ts";
import { LifecycleSamples } from "../../../src/runtime/lifecycle-samples.ts";
import { Quarantine } from "../../../src/runtime/machines/quarantine.ts";
import { UnfinishedWork } from "../../../src/runtime/machines/unfinished-work.ts";
import type { WarmPoolSettings } from "../../../src/runtime/pool/plan.ts";
import { joinSources, SnapshotShelf } from "../../../src/runtime/pool/snapshot-shelf.ts";
import { WarmPool } from "../../../src/runtime/pool/warm-pool.ts";
import { SandboxLogs } from "../../../src/runtime/records/sandbox-logs.ts";
import { noTrust } from "../../../src/template/trust/host-trust.ts";
import type { MachineShape } from "../../../src/types.ts";
import { openIngress } from "../daemon/ingress.ts";
import { FakeDriver, FakeHost } from "./fake-driver.ts";
import type { FakeGuest } from "./fake-guest.ts";

export interface Wiring {
  /** The folder of all files; it exists. */
  readonly folder: string;
  readonly ledger: Ledger;
  readonly guest: FakeGuest;
  readonly budgets: CapacityBudgets;
  readonly disk: () => DiskSpace;
  readonly floors?: DiskFloors;
  readonly guestDiskMiB?: number;
  readonly log?: Logger;
  /** Default: no pool, because it has tests of its own. So has the queue. */
  readonly pool?: WarmPoolSettings;
  readonly queue?: QueueBounds;
  /** Default: a new one. */
  readonly host?: FakeHost;
}

export interface Wired<C extends Clock> {
  readonly deps: RuntimeDependencies & { readonly clock: C };
  readonly host: FakeHost;
  readonly machinesFolder: string;
}

const assets = { kernel: "/k", kernelVersion: "6", agent: "/agent", initramfs: "/i", baseDisk: "/b" };

export function wireFakeRuntime<C extends Clock>(clock: C, wiring: Wiring): Wired<C> {
  const { folder, ledger, guest, budgets, log = pino({ level: "silent" }) } = wiring;
  const { pool = { min: 0, max: 0 }, queue = { limit: 0, timeoutMs: 0 } } = wiring;
  const { host = new FakeHost() } = wiring;
  const machinesFolder = join(folder, "machines");
  const driver = new FakeDriver({ host, machinesFolder, guest });
  const metrics = createMetrics();
  const reach = () => {};
  const basis = {
    ...{ ledger, driver, clock, log, metrics, budgets, assets, trust: noTrust, reach },
    samples: new LifecycleSamples(clock, driver.info, metrics, () => {}),
    disk: new DiskPressureGuard(folder, wiring.floors ?? {}, async () => wiring.disk()),
    guestDiskMiB: wiring.guestDiskMiB,
    quarantine: new Quarantine({ ledger, driver, log, metrics, folder: join(folder, "quarantine") }),
    logs: new SandboxLogs(ledger, clock),
    unfinishedWork: new UnfinishedWork({ ledger, clock, log, metrics, reach }),
    stuckAfterMs: 60_000,
    snapshotsFolder: join(folder, "snapshots"),
  };
  const warmPool = new WarmPool(basis, pool);
  const shelf = new SnapshotShelf({ ...basis, warmPool });
  const deps = {
    ...basis,
    wantedTemplates: { refuseUnmade: () => {} },
    warmPool,
    shelf,
    admission: new Admission({ ...basis, pool: joinSources(shelf, warmPool), bounds: queue }),
    newSandboxId: () => newSandboxId(),
    newTemplateId,
    newAccessToken,
  };
  return { deps, host, machinesFolder };
}

/** The dependencies of a daemon that starts after this one died: the same host and ledger, and an empty memory. */
export function withoutMemories<D extends RuntimeDependencies>(deps: D): D {
  const { ledger, clock, log, metrics, reach } = deps;
  const basis = { ...deps, unfinishedWork: new UnfinishedWork({ ledger, clock, log, metrics, reach }) };
  const warmPool = new WarmPool(basis, { min: 0, max: 0 });
  const shelf = new SnapshotShelf({ ...basis, warmPool });
  const admission = new Admission({ ...basis, pool: joinSources(shelf, warmPool), bounds: { limit: 0, timeoutMs: 0 } });
  return { ...basis, warmPool, shelf, admission };
}

/** A template that a build left: `template-ALIAS`, `build-ALIAS` and `ALIAS-snapshot`, whose folder is `ALIAS`. */
export async function addFakeTemplate(
  { ledger, driver, snapshotsFolder }: RuntimeDependencies,
  alias: string,
  shape: MachineShape,
): Promise<void> {
  const [id, templateId, folder] = [`${alias}-snapshot`, `template-${alias}`, join(snapshotsFolder, alias)];
  registerSnapshot(ledger, { id, kind: "template", logicalId: templateId, folder, reason: null });
  const vm = await driver.boot({ sessionId: `boot-${alias}`, shape, ...assets });
  await vm.pause();
  markSnapshotReady(ledger, id, factsOf(await vm.saveSnapshot(folder, { bootId: "boot" })));
  await vm.terminate();
  insertTemplate(ledger, { id: templateId, aliases: [alias], shape, public: true });
  publishBuild(ledger, { id: `build-${alias}`, templateId, snapshotId: id, shape, tags: ["default"] });
}

export function requestFor(template: string, timeoutMs: number): CreateSandboxRequest {
  return {
    template: { name: template, tag: undefined },
    timeoutMs,
    metadata: {},
    envs: {},
    allowInternetAccess: true,
    ingress: openIngress,
    lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
  };
}
