/**
 * Sandboxes that are paused and could not be saved, because their host saves nothing at the moment (a Mac whose screen is
 * locked): their machines stand still and keep their memory and their capacity, until the host saves again, somebody wants
 * them back, or they end. What is called `…InQueue` is for callers that are in the sandbox's serial queue already.
 */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import { findContinuationInMaking, noteBootId, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import type { SandboxRecord } from "../../types.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";
import { type CaptureDependencies, captureSession, discardContinuation } from "../machines/capture.ts";
import { probeReadiness } from "../machines/identity.ts";
import type { UnfinishedWork } from "../machines/unfinished-work.ts";
import type { SandboxLogs } from "../records/sandbox-logs.ts";
import type { SandboxView } from "../runtime.ts";
import type { Attach } from "./create.ts";
import type { DepartureReason, Departures } from "./leave.ts";
import { completePause } from "./pause-completion.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";

export interface PausedInMemoryDependencies extends CaptureDependencies {
  readonly log: Logger;
  readonly logs: SandboxLogs;
  readonly disk: DiskPressureGuard;
  readonly terminator: UnfinishedWork;
}

interface Kept {
  readonly vm: Vm;
  readonly bootId: string;
  /** Registered, and without a file yet. */
  readonly snapshot: SnapshotRecord;
}

const isKept = ({ state }: SandboxRecord) => state === "paused_in_memory";

export class PausedInMemory {
  readonly #deps: PausedInMemoryDependencies;
  readonly #registry: SandboxRegistry;
  readonly #queue: SerialQueue;
  readonly #attach: Attach;
  readonly #departures: Departures;
  /** By sandbox. */
  readonly #kept = new Map<string, Kept>();

  constructor(
    deps: PausedInMemoryDependencies,
    registry: SandboxRegistry,
    queue: SerialQueue,
    { attach, departures }: { readonly attach: Attach; readonly departures: Departures },
  ) {
    this.#deps = deps;
    this.#registry = registry;
    this.#queue = queue;
    this.#attach = attach;
    this.#departures = departures;
  }

  /** Keeps a machine that stands still and that the host refused to save. */
  keepInQueue({ id }: SandboxRecord, kept: Kept, refusal: DomainError): void {
    const { ledger, clock, logs, log } = this.#deps;
    const record = ledger.write(() => {
      noteBootId(ledger, kept.snapshot.id, kept.bootId);
      return moveSandbox(ledger, id, "pausing", "paused_in_memory", { endAtMs: clock.nowMs() });
    });
    this.#registry.change(record, undefined);
    this.#watch(id, kept);
    const message = `The sandbox was paused in memory, which a restart of the host loses; it is saved as soon as that can be: ${refusal.message}`;
    logs.record(id, message, { level: "warn", event: "paused_in_memory", reason: kept.snapshot.reason ?? "" });
    log.warn({ sandboxID: id, reason: refusal.message }, "paused in memory: nothing can be saved now");
  }

  /**
   * Takes over what an earlier daemon kept.
   * @param vm adopted; it stands still afterwards
   * @throws machine_failed; internal when the ledger does not say into what it is to be saved
   */
  async adopt(record: SandboxRecord, vm: Vm): Promise<void> {
    const snapshot = findContinuationInMaking(this.#deps.ledger, record.id);
    if (!snapshot?.bootId) throw new DomainError("internal", `nothing says into what ${record.id} is to be saved`);
    // It may have been resumed by a daemon that died before it said so.
    await vm.pause();
    this.#watch(record.id, { vm, bootId: snapshot.bootId, snapshot });
  }

  /** Lets it run on, at once. @throws machine_failed: it stands still again, unless its machine is gone. */
  async resumeInQueue(record: SandboxRecord, timeoutMs: number, envs: SandboxRecord["envs"]): Promise<SandboxView> {
    const { ledger, clock, log, samples, terminator } = this.#deps;
    const { id, templateId, defaults } = record;
    const { vm, snapshot } = this.#get(id);
    const startedMs = clock.monotonicMs();
    let agent: GuestAgent | undefined;
    let running: SandboxRecord;
    try {
      await vm.resume();
      agent = await probeReadiness(vm, { sandboxId: id, templateId, envs, defaults }, { clock, log, booted: false });
      running = moveSandbox(ledger, id, "paused_in_memory", "running", { endAtMs: clock.nowMs() + timeoutMs, envs });
    } catch (error) {
      agent?.close();
      log.error({ err: error, sandboxID: id }, "resuming from memory failed; the sandbox stays paused");
      await vm.pause().catch((why: unknown) => log.error({ err: why, sandboxID: id }, "it cannot be stopped again"));
      throw error;
    }
    this.#kept.delete(id);
    samples.record("ready_probe", "resume", clock.monotonicMs() - startedMs, id);
    const view = this.#attach(running, { vm, agent, origin: "resume", restoreStartedMs: undefined });
    terminator.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
    return view;
  }

  /**
   * Saves it after all: then it is paused like any other.
   * @param memory false: its disk only, as if its power had been cut
   * @throws not_ready while the host saves nothing, disk_pressure, machine_failed: it stays as it is
   */
  async saveInQueue(record: SandboxRecord, memory = true): Promise<void> {
    const { disk, logs, log } = this.#deps;
    const { id } = record;
    const { vm, bootId, snapshot } = this.#get(id);
    await disk.admit("save a paused sandbox", "save");
    const source = { vm, bootId, sandboxId: id };
    const facts = await captureSession(this.#deps, source, snapshot, { isLast: true, scenario: "pause", memory });
    // Its machine ends now because it is saved, and not by itself.
    this.#kept.delete(id);
    await completePause(this.#deps, this.#registry, vm, { record, snapshot, facts, pausedAtMs: record.endAtMs });
    logs.record(id, "The paused sandbox was saved", { event: "paused" });
    log.info({ sandboxID: id, snapshotID: snapshot.id }, "paused sandbox saved");
  }

  /** Tries to save all of them, one after the other; a host that saves one of them not saves none. */
  async saveAll(signal: AbortSignal): Promise<void> {
    for (const id of [...this.#kept.keys()]) {
      if (signal.aborted) return;
      try {
        await this.#queue.run(id, async () => {
          const record = this.#registry.view(id)?.record;
          if (record && isKept(record)) await this.saveInQueue(record);
        });
      } catch (error) {
        if (isDomainError(error, "not_ready") || isDomainError(error, "disk_pressure")) return;
        this.#deps.log.error({ err: error, sandboxID: id }, "what is paused in memory cannot be saved; trying again");
      }
    }
  }

  /** Ends a sandbox that is paused in memory: nobody sees it any more when this returns. */
  endInQueue(record: SandboxRecord, reason: DepartureReason, loss?: string): void {
    const { vm, snapshot: continuation } = this.#get(record.id);
    const endMachine = () => vm.terminate();
    this.#departures.leave({ record, reason, continuation, endMachine, loss });
    this.#kept.delete(record.id);
  }

  /** Lets go of every machine without ending it: the daemon stops. */
  async release(): Promise<void> {
    const kept = [...this.#kept.values()];
    this.#kept.clear();
    await Promise.all(kept.map(({ vm }) => vm.release()));
  }

  #watch(id: string, kept: Kept): void {
    const { log } = this.#deps;
    this.#kept.set(id, kept);
    const lose = async (detail: string) => {
      const record = this.#registry.view(id)?.record;
      if (!record || this.#kept.get(id) !== kept) return;
      this.endInQueue(record, "machine_died", `The sandbox's machine died before it could be saved: ${detail}`);
    };
    void kept.vm.exited.then((exit) => {
      if (exit.reason !== "died") return;
      const losing = this.#queue.run(id, () => lose(exit.detail));
      losing.catch((error) => log.error({ reason: messageOf(error), sandboxID: id }, "a loss could not be noted"));
    });
  }

  #get(id: string): Kept {
    const kept = this.#kept.get(id);
    if (!kept) throw new DomainError("internal", `sandbox ${id} is paused in memory and has no machine`);
    return kept;
  }
}
