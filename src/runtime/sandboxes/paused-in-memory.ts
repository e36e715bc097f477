/**
 * Sandboxes that are paused in memory, because their host saves nothing at the moment (a Mac whose screen is locked).
 * Their machines stand still and keep memory and capacity until the host saves again, a client resumes the sandbox, or
 * the sandbox leaves. A method named `…InQueue` is for callers in the sandbox's serial queue.
 */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import { findContinuationInMaking, noteBootId, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { Vm } from "../../machine/driver.ts";
import type { SandboxRecord } from "../../types.ts";
import type { SandboxView } from "../contract.ts";
import { captureSession, discardContinuation } from "../machines/capture.ts";
import { probeReadiness } from "../machines/identity.ts";
import { describeReboot } from "../sessions/session-link.ts";
import type { SandboxContext } from "./context.ts";
import type { DepartureReason } from "./leave.ts";

/** A machine that stands still, unsaved. */
interface StandingMachine {
  readonly vm: Vm;
  readonly bootId: string;
  /** The snapshot that the machine is to be saved into: registered, and without files yet. */
  readonly snapshot: SnapshotRecord;
}

export class PausedInMemory {
  readonly #context: SandboxContext;
  /** By sandbox. */
  readonly #machines = new Map<string, StandingMachine>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /** Keeps a machine that stands still and that the host refused to save. */
  keepInQueue({ id }: SandboxRecord, machine: StandingMachine, refusal: DomainError): void {
    const { deps, registry } = this.#context;
    const { ledger, clock, logs, log } = deps;
    const record = ledger.write(() => {
      noteBootId(ledger, machine.snapshot.id, machine.bootId);
      return moveSandbox(ledger, id, "pausing", "paused_in_memory", { endAtMs: clock.nowMs() });
    });
    registry.change(record, undefined);
    this.#watch(id, machine);
    const message =
      "The sandbox was paused in memory, which a restart of the host loses; it is saved as soon as that can be: ";
    const fields = { event: "paused_in_memory", reason: machine.snapshot.reason ?? "" };
    logs.note(id, message + refusal.message, { level: "warn", ...fields });
    log.warn({ sandboxID: id, reason: refusal.message }, "a sandbox is paused in memory: the host saves nothing now");
  }

  /**
   * Takes over a sandbox that an earlier daemon kept, and shows it as paused.
   * @param vm adopted; it stands still afterwards
   * @throws DomainError `machine_failed`; `internal` when the ledger has no snapshot that the machine can be saved into
   */
  async adopt(record: SandboxRecord, vm: Vm): Promise<void> {
    const { deps, sessions } = this.#context;
    const snapshot = findContinuationInMaking(deps.ledger, record.id);
    if (!snapshot?.bootId) {
      throw new DomainError("internal", `the ledger has no snapshot that sandbox ${record.id} can be saved into`);
    }
    // The machine runs if a daemon resumed it and died before it wrote that down.
    await vm.pause();
    this.#watch(record.id, { vm, bootId: snapshot.bootId, snapshot });
    sessions.showWithoutSession(record);
  }

  /**
   * Lets the machine go on, at once.
   * @throws DomainError `machine_failed`; the sandbox stays paused, unless its machine is gone or its guest booted anew
   */
  async resumeInQueue(record: SandboxRecord, timeoutMs: number, envs: SandboxRecord["envs"]): Promise<SandboxView> {
    const { deps, sessions } = this.#context;
    const { ledger, clock, log, samples, unfinishedWork } = deps;
    const { id, templateId, defaults } = record;
    const { vm, bootId, snapshot } = this.#get(id);
    const startedMs = clock.monotonicMs();
    let agent: GuestAgent | undefined;
    let running: SandboxRecord;
    try {
      await vm.resume();
      agent = await probeReadiness(vm, { sandboxId: id, templateId, envs, defaults }, { clock, log, booted: false });
      const reboot = describeReboot(bootId, agent);
      if (reboot !== undefined) throw this.#loseInQueue(record, reboot);
      running = moveSandbox(ledger, id, "paused_in_memory", "running", { endAtMs: clock.nowMs() + timeoutMs, envs });
    } catch (error) {
      agent?.close();
      if (!this.#machines.has(id)) throw error;
      log.error({ err: error, sandboxID: id }, "resuming from memory failed; the sandbox stays paused");
      await vm
        .pause()
        .catch((why: unknown) => log.error({ err: why, sandboxID: id }, "the machine cannot be paused again"));
      throw error;
    }
    this.#machines.delete(id);
    samples.record("ready_probe", "resume", clock.monotonicMs() - startedMs, id);
    const view = sessions.attach(running, { vm, agent, origin: "resume", restoreStartedMs: undefined });
    unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
    return view;
  }

  /**
   * Saves the machine after all: then the sandbox is paused like any other.
   * @param memory false: its disk only, as if its power had been cut
   * @throws DomainError `not_ready` while the host saves nothing, `disk_pressure`, `machine_failed`; the sandbox stays
   *   paused in memory
   */
  async saveInQueue(record: SandboxRecord, memory = true): Promise<void> {
    const { deps, savedPauses } = this.#context;
    const { disk, logs, log } = deps;
    const { id } = record;
    const { vm, bootId, snapshot } = this.#get(id);
    await disk.admit("save a paused sandbox", "save");
    const source = { vm, bootId, sandboxId: id };
    const facts = await captureSession(deps, source, snapshot, { isLast: true, scenario: "pause", memory });
    // From now on the end of the machine is no loss.
    this.#machines.delete(id);
    await savedPauses.publish(vm, { record, snapshot, facts, pausedAtMs: record.endAtMs });
    logs.note(id, "The paused sandbox was saved", { event: "paused" });
    log.info({ sandboxID: id, snapshotID: snapshot.id }, "paused sandbox saved");
  }

  /** Tries to save every machine, one after the other. A host that refuses one refuses all, which ends the round. */
  async saveAll(signal: AbortSignal): Promise<void> {
    const { deps, registry, queue } = this.#context;
    for (const id of [...this.#machines.keys()]) {
      if (signal.aborted) return;
      try {
        await queue.runAlways(id, async () => {
          const record = registry.view(id)?.record;
          if (record?.state === "paused_in_memory") await this.saveInQueue(record);
        });
      } catch (error) {
        if (isDomainError(error, "not_ready") || isDomainError(error, "disk_pressure")) return;
        deps.log.error(
          { err: error, sandboxID: id },
          "a sandbox that is paused in memory cannot be saved; trying again",
        );
      }
    }
  }

  /** Ends a sandbox whose machine is kept here. Clients find it no more when this returns. @returns false when none is */
  endInQueue(record: SandboxRecord, reason: DepartureReason, loss?: string): boolean {
    const machine = this.#machines.get(record.id);
    if (!machine) return false;
    const { vm, snapshot: continuation } = machine;
    this.#context.departures.leave({ record, reason, loss, continuation, endMachine: () => vm.terminate() });
    this.#machines.delete(record.id);
    return true;
  }

  /** Ends a sandbox whose guest has booted anew, with nothing of its memory. @returns the answer to the client */
  #loseInQueue(record: SandboxRecord, detail: string): DomainError {
    this.endInQueue(record, "machine_died", `The sandbox's memory is gone: ${detail}`);
    return new DomainError("machine_failed", `Sandbox ${record.id} is lost: ${detail}`);
  }

  /** Lets go of every machine without ending it: the daemon stops. */
  async release(): Promise<void> {
    const machines = [...this.#machines.values()];
    this.#machines.clear();
    await Promise.all(machines.map(({ vm }) => vm.release()));
  }

  #watch(id: string, machine: StandingMachine): void {
    const { deps, registry, queue } = this.#context;
    this.#machines.set(id, machine);
    const lose = async (detail: string) => {
      const record = registry.view(id)?.record;
      if (!record || this.#machines.get(id) !== machine) return;
      this.endInQueue(record, "machine_died", `The sandbox's machine died before it could be saved: ${detail}`);
    };
    void machine.vm.exited.then((exit) => {
      if (exit.reason !== "died") return;
      queue
        .runAlways(id, () => lose(exit.detail))
        .catch((error) =>
          deps.log.error(
            { reason: messageOf(error), sandboxID: id },
            "a sandbox that lost its machine while paused in memory could not be ended",
          ),
        );
    });
  }

  #get(id: string): StandingMachine {
    const machine = this.#machines.get(id);
    if (machine) return machine;
    throw new DomainError("not_ready", `the machine of sandbox ${id}, which is paused in memory, does not answer yet`);
  }
}
