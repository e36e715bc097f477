/** A whole runtime over a pretended host: real ledger, real snapshot files, a clock moved by hand. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { pino } from "pino";
import { newSandboxId } from "../../src/e2b/ids.ts";
import { type CapacityBudgets, usage } from "../../src/ledger/capacity.ts";
import { type Ledger, openLedger } from "../../src/ledger/open.ts";
import { markSnapshotReady, registerSnapshot } from "../../src/ledger/snapshots.ts";
import { defaultTag, insertTemplate, publishBuild } from "../../src/ledger/templates.ts";
import { FakeDriver, FakeHost } from "../../src/machine/fake.ts";
import { createMetrics, type Metrics } from "../../src/metrics.ts";
import { Admission } from "../../src/runtime/admission.ts";
import type { QueueBounds } from "../../src/runtime/admission-plan.ts";
import { DiskPressureGuard, type DiskSpace } from "../../src/runtime/disk-pressure-guard.ts";
import { LifecycleSamples } from "../../src/runtime/lifecycle-samples.ts";
import { Quarantine } from "../../src/runtime/quarantine.ts";
import type { CreateSandboxRequest, SandboxView } from "../../src/runtime/runtime.ts";
import { SandboxLogs } from "../../src/runtime/sandbox-logs.ts";
import { type RuntimeDependencies, SandboxRuntime } from "../../src/runtime/sandbox-runtime.ts";
import { SessionTerminator } from "../../src/runtime/session-terminator.ts";
import { WarmPool, type WarmPoolSettings } from "../../src/runtime/warm-pool.ts";
import type { MachineShape } from "../../src/types.ts";
import { facts, roomy, shape } from "../ledger/support.ts";
import { openIngress } from "./ingress.ts";
import { ManualClock } from "./manual-clock.ts";
import { PoliteGuests } from "./polite-guest.ts";

export interface WorldOptions {
  readonly budgets?: Partial<CapacityBudgets>;
  readonly pool?: WarmPoolSettings;
  readonly queue?: QueueBounds;
}

export interface World extends AsyncDisposable {
  readonly runtime: SandboxRuntime;
  readonly deps: RuntimeDependencies;
  readonly pool: WarmPool;
  readonly admission: Admission;
  readonly ledger: Ledger;
  readonly host: FakeHost;
  readonly guests: PoliteGuests;
  readonly clock: ManualClock;
  readonly metrics: Metrics;
  readonly machinesFolder: string;
  /** What the disk guard sees; change it. */
  readonly disk: { freeBytes: number; totalBytes: number };
  addTemplate(alias: string, shape?: MachineShape): Promise<void>;
  create(template?: string, signal?: AbortSignal): Promise<SandboxView>;
  /** One round of the refill supervisor, some time after the last create. */
  refill(): Promise<void>;
  /** Waits until nothing ends any more. */
  settle(): Promise<void>;
  /** How many machines of either kind hold capacity. */
  held(): { active: number; warm: number };
  /** The value of a metric's line that begins so. */
  metric(line: string): Promise<number>;
}

export async function openWorld(options: WorldOptions = {}): Promise<World> {
  const folder = await mkdtemp(join(tmpdir(), "firkin-world-"));
  const machinesFolder = join(folder, "machines");
  await mkdir(machinesFolder);
  const clock = new ManualClock();
  const ledger = openLedger(":memory:", { clock });
  const [host, guests] = [new FakeHost(), new PoliteGuests()];
  const driver = new FakeDriver({ host, machinesFolder, guest: { kind: "scripted", connect: () => guests.connect() } });
  const log = pino({ level: "silent" });
  const metrics = createMetrics();
  const disk: DiskSpace & { freeBytes: number } = { freeBytes: 90 * 2 ** 30, totalBytes: 100 * 2 ** 30 };
  const terminator = new SessionTerminator({ ledger, clock, log, metrics, reach: () => {} });
  const basis = {
    reach: () => {},
    ledger,
    driver,
    clock,
    log,
    metrics,
    quarantine: new Quarantine({ ledger, driver, log, metrics, folder: join(folder, "quarantine") }),
    assets: { kernel: "/k", kernelVersion: "6", initramfs: "/i", baseDisk: "/b" },
    terminator,
    samples: new LifecycleSamples(clock, driver.info, metrics, () => {}),
    disk: new DiskPressureGuard(folder, {}, async () => disk),
    logs: new SandboxLogs(ledger, clock),
    budgets: { ...roomy, ...options.budgets },
    stuckAfterMs: 60_000,
    snapshotsFolder: join(folder, "snapshots"),
  };
  const pool = new WarmPool(basis, options.pool ?? { min: 1, max: 4 });
  const admission = new Admission({ ...basis, pool, bounds: options.queue ?? { limit: 8, timeoutMs: 30_000 } });
  const deps = {
    ...basis,
    warmPool: pool,
    admission,
    newSandboxId,
    newTemplateId: () => "template-new",
    accessTokenFor: (id: string) => `token-${id}`,
  };
  const runtime = new SandboxRuntime(deps);

  async function addTemplate(alias: string, templateShape: MachineShape = shape): Promise<void> {
    const snapshotFolder = join(folder, `snapshot-${alias}`);
    const vm = await driver.boot({
      sessionId: `boot-${alias}`,
      shape: templateShape,
      kernel: "",
      initramfs: "",
      baseDisk: "",
    });
    await vm.pause();
    await vm.saveSnapshot(snapshotFolder, { bootId: "boot" });
    await vm.terminate();
    const id = `snapshot-${alias}`;
    registerSnapshot(ledger, { id, kind: "template", logicalId: alias, folder: snapshotFolder, reason: null });
    markSnapshotReady(ledger, id, facts);
    insertTemplate(ledger, { id: `template-${alias}`, aliases: [alias], shape: templateShape, public: true });
    const build = { id: `build-${alias}`, templateId: `template-${alias}`, snapshotId: id };
    publishBuild(ledger, { ...build, shape: templateShape, tags: [defaultTag] });
  }
  await addTemplate("base");

  return {
    runtime,
    deps,
    pool,
    admission,
    ledger,
    host,
    guests,
    clock,
    metrics,
    machinesFolder,
    disk,
    addTemplate,
    create: (template = "base", signal) => runtime.createSandbox(requestFor(template), signal),
    async refill() {
      await clock.advance(1_000);
      await pool.maintain(new AbortController().signal);
    },
    async settle() {
      await turn();
      await terminator.idle();
      await turn();
    },
    held: () => {
      const { active, warm } = usage(ledger);
      return { active: active.sandboxes, warm: warm.sandboxes };
    },
    async metric(line) {
      runtime.updateGauges();
      const found = (await metrics.registry.metrics()).split("\n").find((it) => it.startsWith(line));
      return Number(found?.slice(line.length).trim() ?? 0);
    },
    async [Symbol.asyncDispose]() {
      await runtime.close();
      for (const sessionId of [...host.machines.keys()]) host.crash(sessionId);
      ledger.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function requestFor(template: string): CreateSandboxRequest {
  return {
    template: { name: template, tag: undefined },
    timeoutMs: 3_600_000_000,
    metadata: {},
    envs: {},
    allowInternetAccess: true,
    ingress: openIngress,
    lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
  };
}
