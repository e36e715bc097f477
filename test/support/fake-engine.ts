/** A daemon's runtime over the fake engine that can be restarted, and what is left of it by every way of counting. */
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CapacityBudgets, usage } from "../../src/ledger/capacity.ts";
import { openLedger } from "../../src/ledger/open.ts";
import { getSandbox } from "../../src/ledger/sandboxes.ts";
import { listSnapshots } from "../../src/ledger/snapshots.ts";
import type { FakeHost } from "../../src/machine/fake.ts";
import { reconcile } from "../../src/runtime/restart-reconciliation.ts";
import type { CreateSandboxRequest, SandboxView } from "../../src/runtime/runtime.ts";
import { type RuntimeDependencies, SandboxRuntime } from "../../src/runtime/sandbox-runtime.ts";
import { roomy, shape } from "../ledger/support.ts";
import { addFakeTemplate, requestFor, wireFakeRuntime, withoutMemories } from "./fake-wiring.ts";
import { ManualClock } from "./manual-clock.ts";
import { PoliteGuests } from "./polite-guest.ts";

/** Moves by hand what is dated, but lets the runtime's own retries pass quickly. */
class QuickClock extends ManualClock {
  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return ms > 1_000 ? super.sleep(ms, signal) : new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export class FakeEngine implements AsyncDisposable {
  readonly deps: RuntimeDependencies;
  readonly host: FakeHost;
  readonly clock = new QuickClock();
  readonly guests = new PoliteGuests();
  readonly folder: string;
  /** Free bytes of the pretended disk. */
  freeBytes = 1e12;
  runtime: SandboxRuntime;

  private constructor(folder: string, budgets: CapacityBudgets) {
    this.folder = folder;
    const { deps, host } = wireFakeRuntime(this.clock, {
      folder,
      ledger: openLedger(join(folder, "ledger.db"), { clock: this.clock }),
      guest: { kind: "scripted", connect: () => this.guests.connect() },
      budgets,
      floors: { restoreMiB: 1 },
      disk: () => ({ freeBytes: this.freeBytes, totalBytes: 1e13 }),
    });
    this.deps = deps;
    this.host = host;
    this.runtime = new SandboxRuntime(deps);
  }

  /** With a template `base`. */
  static async open(budgets: Partial<CapacityBudgets> = {}): Promise<FakeEngine> {
    const engine = new FakeEngine(await mkdtemp(join(tmpdir(), "firkin-runtime-")), { ...roomy, ...budgets });
    await mkdir(engine.deps.snapshotsFolder);
    await addFakeTemplate(engine.deps, "base", shape);
    return engine;
  }

  create(options: Partial<CreateSandboxRequest> = {}): Promise<SandboxView> {
    return this.runtime.createSandbox({ ...requestFor("base", 60_000), ...options });
  }

  /** The daemon stops, letting go of its machines; `meanwhile` something happens; another one starts. */
  async restart(meanwhile: () => unknown = () => {}): Promise<void> {
    await this.runtime.close();
    await meanwhile();
    await this.start();
    await this.deps.terminator.idle();
  }

  /** A daemon starts after the one before has stopped, and listens when this resolves. */
  async start(): Promise<void> {
    Object.assign(this.deps, withoutMemories(this.deps));
    this.runtime = new SandboxRuntime(this.deps);
    await reconcile(this.deps, this.runtime, join(this.folder, "machines"));
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
