/** A whole sandbox runtime over the fake engine and a ledger in memory: what a daemon has, without HTTP and machines. */
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { pino } from "pino";
import { FrameType } from "../../src/guest/protocol.ts";
import { usage } from "../../src/ledger/capacity.ts";
import { type Ledger, openLedger } from "../../src/ledger/open.ts";
import { markSnapshotReady, registerSnapshot } from "../../src/ledger/snapshots.ts";
import { insertTemplate, publishBuild } from "../../src/ledger/templates.ts";
import { FakeDriver, FakeHost } from "../../src/machine/fake.ts";
import type { FakeGuest } from "../../src/machine/fake-guest.ts";
import { createMetrics } from "../../src/metrics.ts";
import { Admission } from "../../src/runtime/admission.ts";
import { DiskPressureGuard } from "../../src/runtime/disk-pressure-guard.ts";
import { LifecycleSamples } from "../../src/runtime/lifecycle-samples.ts";
import { Quarantine } from "../../src/runtime/quarantine.ts";
import { reconcile } from "../../src/runtime/restart-reconciliation.ts";
import { SandboxLogs } from "../../src/runtime/sandbox-logs.ts";
import { type RuntimeDependencies, SandboxRuntime } from "../../src/runtime/sandbox-runtime.ts";
import { SessionTerminator } from "../../src/runtime/session-terminator.ts";
import { WarmPool } from "../../src/runtime/warm-pool.ts";
import { duplexPair } from "./duplex-pair.ts";
import { FakeAgent, ok } from "./fake-agent.ts";
import { openIngress } from "./ingress.ts";
import { ManualClock } from "./manual-clock.ts";

const shape = { vcpuCount: 1, memoryMiB: 64, diskMiB: 64 };

export interface TestRuntime extends AsyncDisposable {
  readonly runtime: SandboxRuntime;
  readonly deps: RuntimeDependencies & { readonly clock: ManualClock };
  readonly host: FakeHost;
  /** Settable: free space on the pretended disk. */
  readonly disk: { freeBytes: number };
  readonly machinesFolder: string;
  /** Parsed lines of level warn and above. */
  readonly logged: { readonly msg: string }[];
  /** Sandboxes that hold capacity, machines that run, folders of machines, links that are open. */
  held(): Promise<{ reservations: number; machines: number; folders: number; links: number }>;
  create(): ReturnType<SandboxRuntime["createSandbox"]>;
  /** What a daemon that starts now, after this one died, would have. */
  restart(): Promise<SandboxRuntime>;
}

export const nothing = { reservations: 0, machines: 0, folders: 0, links: 0 };

/** Room for two sandboxes. */
export async function openTestRuntime(guest: FakeGuest): Promise<TestRuntime> {
  const root = await mkdtemp(join(tmpdir(), "firkin-runtime-"));
  const machinesFolder = join(root, "machines");
  await mkdir(machinesFolder);
  const host = new FakeHost();
  const clock = new ManualClock();
  const ledger = openLedger(":memory:", { clock });
  const driver = new FakeDriver({ host, machinesFolder, guest });
  await addTemplate(ledger, driver, join(root, "snapshot"));
  const logged: { msg: string }[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => logged.push(JSON.parse(line)) });
  const metrics = createMetrics();
  const disk = { freeBytes: 2 ** 40 };
  let sequence = 0;
  const basis = {
    reach: () => {},
    ledger,
    driver,
    clock,
    log,
    metrics,
    samples: new LifecycleSamples(clock, driver.info, metrics, () => {}),
    disk: new DiskPressureGuard(root, { restoreMiB: 1024 }, async () => ({ ...disk, totalBytes: 2 ** 40 })),
    quarantine: new Quarantine({ ledger, driver, log, metrics, folder: join(root, "quarantine") }),
    logs: new SandboxLogs(ledger, clock),
    assets: { kernel: "/k", kernelVersion: "6", initramfs: "/i", baseDisk: "/b" },
    terminator: new SessionTerminator({ ledger, clock, log, metrics, reach: () => {} }),
    stuckAfterMs: 60_000,
    snapshotsFolder: join(root, "snapshots"),
    budgets: { vcpuCount: 100, memoryMiB: 10_000, diskMiB: 10_000, sandboxes: 2 },
  };
  // No pool and no queue: they have tests of their own.
  const warmPool = new WarmPool(basis, { min: 0, max: 0 });
  const deps = {
    ...basis,
    warmPool,
    admission: new Admission({ ...basis, bounds: { limit: 0, timeoutMs: 0 }, pool: warmPool }),
    newSandboxId: () => `iaa${++sequence}`,
    newTemplateId: () => "template-new",
    accessTokenFor: (id: string) => `token-of-${id}`,
  };
  const runtime = new SandboxRuntime(deps);
  return {
    runtime,
    deps,
    host,
    disk,
    machinesFolder,
    logged,
    held: async () => ({
      reservations: usage(ledger).active.sandboxes,
      machines: host.machines.size,
      folders: (await readdir(machinesFolder)).length,
      links: host.openLinks,
    }),
    create: () =>
      runtime.createSandbox({
        template: { name: "base", tag: undefined },
        timeoutMs: 60_000,
        metadata: {},
        envs: {},
        allowInternetAccess: true,
        ingress: openIngress,
        lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
      }),
    restart: async () => {
      const next = new SandboxRuntime(deps);
      await reconcile(deps, next, machinesFolder);
      return next;
    },
    async [Symbol.asyncDispose]() {
      for (const sessionId of [...host.machines.keys()]) host.crash(sessionId);
      await runtime.close();
      ledger.close();
      await rm(root, { recursive: true, force: true });
    },
  };
}

async function addTemplate(ledger: Ledger, driver: FakeDriver, folder: string): Promise<void> {
  const vm = await driver.boot({ sessionId: "template", shape, kernel: "", initramfs: "", baseDisk: "" });
  await vm.pause();
  await vm.saveSnapshot(folder, { bootId: "boot" });
  await vm.terminate();
  registerSnapshot(ledger, { id: "snap", kind: "template", logicalId: "t", folder, reason: null });
  const sizes = { memoryBytes: 1, devicesBytes: 1, diskBytes: 1, manifestSha256: "00" };
  const engine = { engine: "fake", engineVersion: "1", acceleration: "none", cpuModel: "none" } as const;
  markSnapshotReady(ledger, "snap", { ...engine, ...sizes });
  insertTemplate(ledger, { id: "t", aliases: ["base"], shape, public: true });
  publishBuild(ledger, { id: "b", templateId: "t", snapshotId: "snap", shape, tags: ["default"] });
}

/** A guest that says yes to everything, and what it is asked over its latest link. */
export function agreeableGuest(): { guest: FakeGuest; latest: () => FakeAgent } {
  let latest: FakeAgent | undefined;
  const connect = (): Duplex => {
    const [hostEnd, guestEnd] = duplexPair();
    latest = new FakeAgent(guestEnd);
    void answer(latest);
    return hostEnd;
  };
  return {
    guest: { kind: "scripted", connect },
    latest: () => {
      if (!latest) throw new Error("nobody has connected yet");
      return latest;
    },
  };
}

async function answer(agent: FakeAgent): Promise<void> {
  agent.sendWelcome(await agent.hello());
  for (;;) {
    const { stream } = await agent.next(FrameType.open);
    agent.send(FrameType.result, stream, ok);
  }
}
