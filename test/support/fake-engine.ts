/** The whole runtime over the fake engine: real ledger, real snapshot folders, guests that agree to everything. */
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { pino } from "pino";
import { newSandboxId, newTemplateId } from "../../src/e2b/ids.ts";
import { FrameType } from "../../src/guest/protocol.ts";
import { type CapacityBudgets, usage } from "../../src/ledger/capacity.ts";
import { openLedger } from "../../src/ledger/open.ts";
import { getSandbox } from "../../src/ledger/sandboxes.ts";
import { listSnapshots, markSnapshotReady, registerSnapshot } from "../../src/ledger/snapshots.ts";
import { insertTemplate, publishBuild } from "../../src/ledger/templates.ts";
import { FakeDriver, FakeHost } from "../../src/machine/fake.ts";
import { createMetrics } from "../../src/metrics.ts";
import { Admission } from "../../src/runtime/admission.ts";
import { DiskPressureGuard } from "../../src/runtime/disk-pressure-guard.ts";
import { LifecycleSamples } from "../../src/runtime/lifecycle-samples.ts";
import { Quarantine } from "../../src/runtime/quarantine.ts";
import { reconcile } from "../../src/runtime/restart-reconciliation.ts";
import type { CreateSandboxRequest, SandboxView } from "../../src/runtime/runtime.ts";
import { SandboxLogs } from "../../src/runtime/sandbox-logs.ts";
import { type RuntimeDependencies, SandboxRuntime } from "../../src/runtime/sandbox-runtime.ts";
import { SessionTerminator } from "../../src/runtime/session-terminator.ts";
import { WarmPool, type WarmPoolDependencies } from "../../src/runtime/warm-pool.ts";
import { factsOf } from "../../src/template/snapshot-facts.ts";
import { duplexPair } from "./duplex-pair.ts";
import { FakeAgent, ok } from "./fake-agent.ts";
import { openIngress } from "./ingress.ts";
import { ManualClock } from "./manual-clock.ts";

const shape = { vcpuCount: 2, memoryMiB: 512, diskMiB: 1024 };
const roomy: CapacityBudgets = { vcpuCount: 1e3, memoryMiB: 1e6, diskMiB: 1e7, sandboxes: 100 };

/** Moves by hand what is dated, but lets the runtime's own retries pass quickly. */
class QuickClock extends ManualClock {
  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return ms > 1_000 ? super.sleep(ms, signal) : new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export class FakeEngine implements AsyncDisposable {
  readonly deps: RuntimeDependencies;
  readonly host = new FakeHost();
  readonly clock = new QuickClock();
  readonly folder: string;
  /** Free bytes of the pretended disk. */
  freeBytes = 1e12;
  runtime: SandboxRuntime;

  private constructor(folder: string, budgets: CapacityBudgets) {
    const { host, clock } = this;
    const log = pino({ level: "silent" });
    const ledger = openLedger(join(folder, "ledger.db"), { clock });
    const metrics = createMetrics();
    const driver = new FakeDriver({
      host,
      machinesFolder: join(folder, "machines"),
      guest: { kind: "scripted", connect: agreeableGuest },
    });
    this.folder = folder;
    const basis = {
      reach: () => {},
      ledger,
      driver,
      clock,
      log,
      metrics,
      budgets,
      samples: new LifecycleSamples(clock, driver.info, metrics, () => {}),
      disk: new DiskPressureGuard(folder, { restoreMiB: 1 }, async () => ({
        freeBytes: this.freeBytes,
        totalBytes: 1e13,
      })),
      quarantine: new Quarantine({ ledger, driver, log, metrics, folder: join(folder, "quarantine") }),
      logs: new SandboxLogs(ledger, clock),
      assets: { kernel: "/k", kernelVersion: "6", initramfs: "/i", baseDisk: "/b" },
      terminator: new SessionTerminator({ ledger, clock, log, metrics, reach: () => {} }),
      snapshotsFolder: join(folder, "snapshots"),
      stuckAfterMs: 60_000,
    };
    this.deps = {
      ...basis,
      ...withoutPool(basis),
      newSandboxId: () => newSandboxId(),
      newTemplateId,
      accessTokenFor: (id) => `token-of-${id}`,
    };
    this.runtime = new SandboxRuntime(this.deps);
  }

  /** With a template `base`. */
  static async open(budgets: Partial<CapacityBudgets> = {}): Promise<FakeEngine> {
    const engine = new FakeEngine(await mkdtemp(join(tmpdir(), "firkin-runtime-")), { ...roomy, ...budgets });
    const { ledger, driver, snapshotsFolder } = engine.deps;
    await mkdir(snapshotsFolder);
    const folder = join(snapshotsFolder, "base");
    registerSnapshot(ledger, { id: "base-snapshot", kind: "template", logicalId: "t", folder, reason: null });
    const vm = await driver.boot({ sessionId: "template", shape, kernel: "/k", initramfs: "/i", baseDisk: "/b" });
    await vm.pause();
    markSnapshotReady(ledger, "base-snapshot", factsOf(await vm.saveSnapshot(folder, { bootId: "boot" })));
    await vm.terminate();
    insertTemplate(ledger, { id: "t", aliases: ["base"], shape, public: true });
    publishBuild(ledger, { id: "b", templateId: "t", snapshotId: "base-snapshot", shape, tags: ["default"] });
    return engine;
  }

  create(options: Partial<CreateSandboxRequest> = {}): Promise<SandboxView> {
    return this.runtime.createSandbox({
      template: { name: "base", tag: undefined },
      timeoutMs: 60_000,
      metadata: {},
      envs: {},
      allowInternetAccess: true,
      ingress: openIngress,
      lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
      ...options,
    });
  }

  /** The daemon stops, letting go of its machines; `meanwhile` something happens; another one starts. */
  async restart(meanwhile: () => unknown = () => {}): Promise<void> {
    await this.runtime.close();
    await meanwhile();
    const { ledger, clock, log, metrics } = this.deps;
    const basis = { ...this.deps, terminator: new SessionTerminator({ ledger, clock, log, metrics, reach: () => {} }) };
    Object.assign(this.deps, { ...basis, ...withoutPool(basis) });
    this.runtime = new SandboxRuntime(this.deps);
    await reconcile(this.deps, this.runtime, join(this.folder, "machines"));
    await this.deps.terminator.idle();
  }

  stateOf(id: string): string | undefined {
    return getSandbox(this.deps.ledger, id)?.state;
  }

  /** What is there now, by every way of counting it. The template is not counted. */
  async remains() {
    const folders = await readdir(join(this.folder, "machines"));
    const { active } = usage(this.deps.ledger);
    const kept = listSnapshots(this.deps.ledger, ["making", "ready", "quarantined"]).map(({ id }) => id);
    return {
      machines: this.host.machines.size,
      machineFolders: folders.length,
      reservations: active.sandboxes,
      snapshots: kept.filter((id) => id !== "base-snapshot").length,
      snapshotFolders: (await readdir(this.deps.snapshotsFolder)).filter((name) => name !== "base").length,
    };
  }

  /** Waits for everything that goes on in the background. */
  async settle(): Promise<void> {
    await this.runtime.idle();
    await this.deps.terminator.idle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.runtime.close();
    for (const sessionId of [...this.host.machines.keys()]) this.host.crash(sessionId);
    this.deps.ledger.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** What remains when nothing does. */
export const nothing = { machines: 0, machineFolders: 0, reservations: 0, snapshots: 0, snapshotFolders: 0 };
/** What a running sandbox keeps, and a paused one. */
export const running = { ...nothing, machines: 1, machineFolders: 1, reservations: 1 };
export const paused = { ...nothing, snapshots: 1, snapshotFolders: 1 };

/** Says welcome, and ok to every request. */
function agreeableGuest(): Duplex {
  const [hostEnd, guestEnd] = duplexPair();
  const agent = new FakeAgent(guestEnd);
  void (async () => {
    agent.sendWelcome(await agent.hello());
    for (;;) agent.send(FrameType.result, (await agent.next(FrameType.open)).stream, ok);
  })();
  return hostEnd;
}

/** No pool and no queue: they have tests of their own. */
function withoutPool(basis: WarmPoolDependencies): Pick<RuntimeDependencies, "warmPool" | "admission"> {
  const warmPool = new WarmPool(basis, { min: 0, max: 0 });
  return { warmPool, admission: new Admission({ ...basis, bounds: { limit: 0, timeoutMs: 0 }, pool: warmPool }) };
}
