/** A runtime with a warm pool and a queue over a pretended host, a clock moved by hand, and guests that are polite. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { type CapacityBudgets, usage } from "../../src/ledger/capacity.ts";
import { type Ledger, openLedger } from "../../src/ledger/open.ts";
import type { FakeHost } from "../../src/machine/fake.ts";
import type { Metrics } from "../../src/metrics.ts";
import type { Admission } from "../../src/runtime/admission.ts";
import type { QueueBounds } from "../../src/runtime/admission-plan.ts";
import type { SandboxView } from "../../src/runtime/runtime.ts";
import { type RuntimeDependencies, SandboxRuntime } from "../../src/runtime/sandbox-runtime.ts";
import type { WarmPool } from "../../src/runtime/warm-pool.ts";
import type { WarmPoolSettings } from "../../src/runtime/warm-pool-targets.ts";
import type { MachineShape } from "../../src/types.ts";
import { roomy, shape } from "../ledger/support.ts";
import { addFakeTemplate, requestFor, wireFakeRuntime } from "./fake-wiring.ts";
import { ManualClock } from "./manual-clock.ts";
import { PoliteGuests } from "./polite-guest.ts";

/** Longer than any test moves its clock. */
const longMs = 3_600_000_000;

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
  const clock = new ManualClock();
  const ledger = openLedger(":memory:", { clock });
  const guests = new PoliteGuests();
  const disk = { freeBytes: 90 * 2 ** 30, totalBytes: 100 * 2 ** 30 };
  const { deps, host, machinesFolder } = wireFakeRuntime(clock, {
    folder,
    ledger,
    guest: { kind: "scripted", connect: () => guests.connect() },
    budgets: { ...roomy, ...options.budgets },
    disk: () => disk,
    pool: options.pool ?? { min: 1, max: 4 },
    queue: options.queue ?? { limit: 8, timeoutMs: 30_000 },
  });
  const { warmPool: pool, admission, terminator, metrics } = deps;
  await mkdir(machinesFolder);
  const runtime = new SandboxRuntime(deps);
  const addTemplate = (alias: string, templateShape = shape) => addFakeTemplate(deps, alias, templateShape);
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
    create: (template = "base", signal) => runtime.createSandbox(requestFor(template, longMs), { signal }),
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
