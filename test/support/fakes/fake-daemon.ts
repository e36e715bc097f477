/**
 * The fake daemon: the runtime over the fake engine, with a clock that a test moves by hand and polite guests. It can
 * be restarted, and everything that it holds and leaves is counted in every way there is.
 */
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { pino } from "pino";
import { type CapacityBudgets, usage } from "../../../src/ledger/capacity.ts";
import { type Ledger, openLedger } from "../../../src/ledger/open.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import { listSnapshots } from "../../../src/ledger/snapshots.ts";
import type { QueueBounds } from "../../../src/runtime/capacity/admission-plan.ts";
import type { CreateSandboxRequest, PauseOptions, SandboxView } from "../../../src/runtime/contract.ts";
import type { RuntimeDependencies } from "../../../src/runtime/dependencies.ts";
import type { WarmPoolSettings } from "../../../src/runtime/pool/plan.ts";
import { openStateLedger } from "../../../src/runtime/restart/open-ledger.ts";
import { reconcile } from "../../../src/runtime/restart/reconcile.ts";
import { composeRuntime, type DrivenRuntime } from "../../../src/runtime/runtime.ts";
import type { ContinuationReason, MachineShape } from "../../../src/types.ts";
import { roomy, shape } from "../../ledger/support.ts";
import { PoliteGuests } from "../guest/polite-guest.ts";
import type { FakeHost } from "./fake-driver.ts";
import type { FakeGuest } from "./fake-guest.ts";
import { addFakeTemplate, requestFor, wireFakeRuntime, withoutMemories } from "./fake-wiring.ts";
import { ManualClock } from "./manual-clock.ts";

/** The quick clock: long sleeps wait until a test moves the clock, and short ones, such as retries, pass quickly. */
class QuickClock extends ManualClock {
  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return ms > 1_000 ? super.sleep(ms, signal) : new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface FakeDaemonOptions {
  readonly budgets?: Partial<CapacityBudgets>;
  /** Default: neither a pool nor a queue. */
  readonly pool?: WarmPoolSettings;
  readonly queue?: QueueBounds;
  /** Default: polite guests. */
  readonly guest?: FakeGuest;
  /** Whether the ledger is `ledger.db` in the folder; default: it is in memory. */
  readonly onDisk?: boolean;
  /** Default: no limit. */
  readonly guestDiskMiB?: number;
  /** Whether retries wait until the clock is moved; otherwise they pass by themselves, at once. */
  readonly retriesByHand?: boolean;
}

/** Options with a warm pool and a queue, in which every wait ends by hand. */
export const pooled: FakeDaemonOptions = {
  pool: { min: 1, max: 4 },
  queue: { limit: 8, timeoutMs: 30_000 },
  retriesByHand: true,
};

export class FakeDaemon implements AsyncDisposable {
  readonly deps: RuntimeDependencies;
  readonly host: FakeHost;
  readonly clock: ManualClock;
  readonly guests = new PoliteGuests();
  readonly folder: string;
  readonly machinesFolder: string;
  /** The disk that the disk guard sees; a test may change it. */
  readonly disk = { freeBytes: 90 * 2 ** 30, totalBytes: 100 * 2 ** 30 };
  /** Parsed lines of level warn and above. */
  readonly logged: { readonly msg: string }[] = [];
  runtime: DrivenRuntime;

  readonly #options: FakeDaemonOptions;

  private constructor(folder: string, options: FakeDaemonOptions) {
    this.folder = folder;
    this.#options = options;
    this.clock = options.retriesByHand ? new ManualClock() : new QuickClock();
    const path = options.onDisk ? join(folder, "ledger.db") : ":memory:";
    const wired = this.#wire(openLedger(path, { clock: this.clock }));
    this.deps = wired.deps;
    this.host = wired.host;
    this.machinesFolder = wired.machinesFolder;
    this.runtime = composeRuntime(this.deps);
  }

  #wire(ledger: Ledger, host?: FakeHost) {
    const { budgets, pool, queue, guest, guestDiskMiB } = this.#options;
    return wireFakeRuntime(this.clock, {
      folder: this.folder,
      ledger,
      guest: guest ?? { kind: "scripted", connect: () => this.guests.connect() },
      budgets: { ...roomy, ...budgets },
      disk: () => this.disk,
      log: pino({ level: "warn" }, { write: (line: string) => void this.logged.push(JSON.parse(line)) }),
      ...(guestDiskMiB !== undefined && { guestDiskMiB }),
      ...(pool && { pool }),
      ...(queue && { queue }),
      ...(host && { host }),
    });
  }

  /** Opens a fake daemon with a template `base`. */
  static async open(options: FakeDaemonOptions = {}): Promise<FakeDaemon> {
    const daemon = new FakeDaemon(await mkdtemp(join(tmpdir(), "firkin-runtime-")), options);
    for (const folder of [daemon.deps.snapshotsFolder, daemon.machinesFolder]) await mkdir(folder);
    await daemon.addTemplate("base");
    return daemon;
  }

  get ledger(): Ledger {
    return this.deps.ledger;
  }

  addTemplate(alias: string, templateShape: MachineShape = shape): Promise<void> {
    return addFakeTemplate(this.deps, alias, templateShape);
  }

  /** Creates a sandbox, from `base` if no other template is named. */
  create(options: string | Partial<CreateSandboxRequest> = {}, signal?: AbortSignal): Promise<SandboxView> {
    const request =
      typeof options === "string" ? requestFor(options, 60_000) : { ...requestFor("base", 60_000), ...options };
    return this.runtime.creates.create(request, { signal });
  }

  /** Pauses a sandbox, and waits until its machine has ended. */
  async pause(id: string, reason: ContinuationReason = "stopped", options?: PauseOptions): Promise<void> {
    await this.runtime.pauses.pause(id, reason, options);
    await this.deps.unfinishedWork.idle();
  }

  /** One round of the refill supervisor, some time after the last create. */
  async refill(): Promise<void> {
    await this.clock.advance(1_000);
    await this.deps.warmPool.maintain(new AbortController().signal);
  }

  /** The daemon stops, letting go of its machines; `meanwhile` something happens; another one starts. */
  async restart(meanwhile: () => unknown = () => {}): Promise<void> {
    await this.runtime.close();
    await meanwhile();
    await this.start();
    await this.deps.unfinishedWork.idle();
  }

  /** The daemon stops, its ledger on the disk is lost or damaged by `meanwhile`, and another daemon starts. */
  async restartWithout(meanwhile: (ledgerPath: string) => void): Promise<void> {
    await this.runtime.close();
    this.ledger.close();
    const ledgerPath = join(this.folder, "ledger.db");
    meanwhile(ledgerPath);
    const { machinesFolder, deps } = this;
    const { snapshotsFolder, log } = deps;
    const state = { ledgerPath, machinesFolder, snapshotsFolder, quarantineFolder: join(this.folder, "quarantine") };
    const ledger = await openStateLedger(state, log, this.clock);
    Object.assign(this.deps, this.#wire(ledger, this.host).deps);
    await this.start();
    await this.deps.unfinishedWork.idle();
  }

  /** A daemon starts after the one before has stopped, and listens when this resolves. */
  async start(): Promise<void> {
    Object.assign(this.deps, withoutMemories(this.deps));
    this.runtime = composeRuntime(this.deps);
    await reconcile(this.deps, this.runtime, this.machinesFolder);
  }

  stateOf(id: string): string | undefined {
    return getSandbox(this.ledger, id)?.state;
  }

  /** How many machines of either kind hold capacity. */
  held(): { active: number; warm: number } {
    const { active, warm } = usage(this.ledger);
    return { active: active.sandboxes, warm: warm.sandboxes };
  }

  /** What exists now, counted in every way. The template is not counted. */
  async remains() {
    const kept = listSnapshots(this.ledger, ["making", "ready", "quarantined"]).map(({ id }) => id);
    return {
      machines: this.host.machines.size,
      machineFolders: (await readdir(this.machinesFolder)).length,
      links: this.host.openLinks,
      reservations: this.held().active,
      snapshots: kept.filter((id) => id !== "base-snapshot").length,
      snapshotFolders: (await readdir(this.deps.snapshotsFolder)).filter((name) => name !== "base").length,
    };
  }

  /** The value of a metric's line that begins so. */
  async metric(line: string): Promise<number> {
    this.runtime.updateGauges();
    const found = (await this.deps.metrics.registry.metrics()).split("\n").find((it) => it.startsWith(line));
    return Number(found?.slice(line.length).trim() ?? 0);
  }

  /** Waits for everything that goes on in the background. */
  async settle(): Promise<void> {
    await turn();
    await this.runtime.idle();
    await this.deps.unfinishedWork.idle();
    await turn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.runtime.close();
    for (const sessionId of [...this.host.machines.keys()]) this.host.crash(sessionId);
    this.ledger.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** The count when nothing is left. */
export const nothing = {
  machines: 0,
  machineFolders: 0,
  links: 0,
  reservations: 0,
  snapshots: 0,
  snapshotFolders: 0,
};
/** The counts of one running sandbox, and of one paused one. */
export const running = { ...nothing, machines: 1, machineFolders: 1, links: 1, reservations: 1 };
export const paused = { ...nothing, snapshots: 1, snapshotFolders: 1 };
