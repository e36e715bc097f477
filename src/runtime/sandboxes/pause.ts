/**
 * Pause and resume: a running sandbox becomes a continuation snapshot that holds no capacity, and runs again under the
 * same id and token. A step that fails leaves the sandbox where it was. What is called `…InQueue` is for callers that are
 * in the sandbox's serial queue already.
 */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { type CapacityBudgets, reserve } from "../../ledger/capacity.ts";
import { moveSandbox, setSandboxMachine } from "../../ledger/sandboxes.ts";
import { getSnapshot, refuseUnreadySnapshot, type SnapshotFacts, type SnapshotRecord } from "../../ledger/snapshots.ts";
import { newSessionId } from "../../machine/driver.ts";
import type { ContinuationReason, SandboxRecord } from "../../types.ts";
import type { Admission } from "../capacity/admission.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";
import {
  type CaptureDependencies,
  captureSession,
  discardContinuation,
  registerContinuation,
} from "../machines/capture.ts";
import { type Abandon, type RestoreDependencies, restoreMachine } from "../machines/restore.ts";
import type { UnfinishedWork } from "../machines/unfinished-work.ts";
import type { SandboxLogs } from "../records/sandbox-logs.ts";
import type { PauseOptions, ResumeOptions, SandboxView } from "../runtime.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import type { Session } from "../sessions/session.ts";
import type { Attach, ReadyMachine } from "./create.ts";
import type { Departures } from "./leave.ts";
import { completePause } from "./pause-completion.ts";
import { PausedInMemory } from "./paused-in-memory.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";

export interface PauseDependencies extends CaptureDependencies, RestoreDependencies {
  readonly disk: DiskPressureGuard;
  readonly terminator: UnfinishedWork;
  readonly budgets: CapacityBudgets;
  readonly admission: Admission;
  readonly logs: SandboxLogs;
}

/** A sandbox that traffic resumed lives at least this long (reference 1.6). */
const minAutoResumeMs = 300_000;
const syncDeadlineMs = 30_000;
const pingDeadlineMs = 5_000;

export class SandboxPause {
  readonly inMemory: PausedInMemory;
  readonly #deps: PauseDependencies;
  readonly #registry: SandboxRegistry;
  readonly #queue: SerialQueue;
  readonly #attach: Attach;
  readonly #departures: Departures;

  constructor(
    deps: PauseDependencies,
    registry: SandboxRegistry,
    queue: SerialQueue,
    { attach, departures }: { readonly attach: Attach; readonly departures: Departures },
  ) {
    this.#deps = deps;
    this.#registry = registry;
    this.#queue = queue;
    this.#attach = attach;
    this.#departures = departures;
    this.inMemory = new PausedInMemory(deps, registry, queue, { attach, departures });
  }

  /** See `Runtime.pauseSandbox`. */
  pause(id: string, reason: ContinuationReason, { memory = true, requireAnswer = false }: PauseOptions): Promise<void> {
    return this.#queue.run(id, async () => {
      if (this.#registry.get(id).state === "running") {
        const { agent } = this.#registry.getRunning(id).session;
        if (requireAnswer) await this.#inTime(agent.ping(), "did not answer", pingDeadlineMs);
        return this.pauseInQueue(id, reason, memory);
      }
      throw new DomainError("invalid_state", `Error pausing sandbox - sandbox '${id}' is already paused`);
    });
  }

  /** See `Runtime.resumeSandbox`. */
  resume(id: string, timeoutMs: number, options: ResumeOptions): Promise<SandboxView> {
    return this.#queue.run(id, async (overtaken) => {
      if (this.#registry.get(id).state === "paused") return this.resumeInQueue(id, timeoutMs, overtaken, options);
      throw new DomainError("invalid_state", `Sandbox ${id} is already running`);
    });
  }

  /** See `Runtime.resumeForTraffic`. */
  resumeForTraffic(id: string): Promise<Session | undefined> {
    return this.#queue.run(id, async (overtaken) => {
      const view = this.#registry.view(id);
      if (view && this.isResumedByTraffic(view)) {
        await this.resumeInQueue(id, Math.max(view.record.lifecycle.timeoutMs, minAutoResumeMs), overtaken);
      }
      return this.#registry.session(id);
    });
  }

  /** A request does not wait for a boot: a sandbox without its memory comes back only when it is asked for. */
  isResumedByTraffic({ record, state }: SandboxView): boolean {
    // One that is being paused still has the snapshot that it came from: whoever wants it waits its turn.
    if (state !== "paused" || !record.lifecycle.autoResume) return false;
    return record.state === "paused_in_memory" || this.#hasMemory(record.snapshotId) === true;
  }

  /** Whether the pause of a sandbox saved its memory too; undefined unless it is paused, and has been for good. */
  keptMemory({ state, snapshotId }: SandboxRecord): boolean | undefined {
    if (state === "paused_in_memory") return true;
    return state === "paused" ? this.#hasMemory(snapshotId) : undefined;
  }

  #hasMemory(snapshotId: string): boolean | undefined {
    const facts = getSnapshot(this.#deps.ledger, snapshotId)?.facts;
    return facts ? facts.memoryBytes > 0 : undefined;
  }

  /**
   * Pauses a running sandbox; durable when this returns, and its machine and its reservation are gone. On a host that
   * saves nothing at the moment it is paused in memory, and keeps them.
   * @param memory false: only its disk is kept, with all that its guest has written
   * @throws disk_pressure, machine_failed, not_ready (the guest does not answer): the sandbox goes on; not_ready when the
   *   daemon stops meanwhile.
   */
  async pauseInQueue(id: string, reason: ContinuationReason, memory: boolean): Promise<void> {
    const { ledger, disk, clock } = this.#deps;
    const { session } = this.#registry.getRunning(id);
    await disk.admit("pause a sandbox", "save");
    if (!memory) await this.#inTime(session.agent.sync(), "did not write its files to its disk", syncDeadlineMs);
    const [pausing, snapshot] = ledger.write(() => [
      moveSandbox(ledger, id, "running", "pausing"),
      registerContinuation(this.#deps, id, reason),
    ]);
    this.#registry.change(pausing, undefined);
    session.end(new DomainError("not_found", "The sandbox was paused"));
    let facts: SnapshotFacts;
    try {
      facts = await captureSession(this.#deps, session, snapshot, { isLast: true, scenario: "pause", memory });
    } catch (error) {
      if (memory && isDomainError(error, "not_ready")) {
        const { vm, bootId } = session;
        return this.inMemory.keepInQueue(pausing, { vm, bootId, snapshot }, error);
      }
      session.log.error({ err: error }, "pausing failed; the sandbox goes on");
      await this.#goOn(session, pausing, snapshot);
      throw error;
    }
    const saved = { record: pausing, snapshot, facts, pausedAtMs: clock.nowMs() };
    await completePause(this.#deps, this.#registry, session.vm, saved);
    this.#deps.logs.record(id, "The sandbox was paused", { event: "paused", reason });
    session.log.info({ reason, snapshotID: snapshot.id }, "sandbox paused");
  }

  /**
   * Brings a paused sandbox back: same id, same token, the processes where they were, or, without memory, after a boot.
   * @param overtaken ends the wait for capacity
   * @param options.memory false: boots even if there is a memory, which is lost; like a computer whose power was cut
   * @throws capacity_exhausted, disk_pressure, machine_failed, failed_precondition (a damaged snapshot): it stays paused.
   */
  async resumeInQueue(
    id: string,
    timeoutMs: number,
    overtaken: AbortSignal,
    options: ResumeOptions = {},
  ): Promise<SandboxView> {
    const { ledger, disk, budgets, admission, terminator, clock, log, reach } = this.#deps;
    const { record } = this.#registry.get(id);
    const envs = { ...record.envs, ...options.envs };
    if (record.state === "paused_in_memory") {
      if (options.memory !== false) return this.inMemory.resumeInQueue(record, timeoutMs, envs);
      await this.inMemory.saveInQueue(record, false);
      return this.resumeInQueue(id, timeoutMs, overtaken, options);
    }
    const { templateId, defaults, shape, snapshotId, allowInternetAccess } = record;
    refuseUnreadySnapshot(ledger, snapshotId);
    await disk.admit("resume a sandbox");
    const snapshot = getSnapshot(ledger, snapshotId);
    if (!snapshot) throw new DomainError("internal", `the snapshot of sandbox ${id} is not in the ledger`);
    const attempt = () =>
      ledger.write(() => {
        const { id: reservationId } = reserve(ledger, { kind: "active", shape, budgets, sandboxId: id });
        moveSandbox(ledger, id, "paused", "resuming", { reservationId });
      });
    await admission.admit(shape, attempt, overtaken);
    reach("resume.reserved");
    const order = {
      snapshotFolder: snapshot.folder,
      sessionId: newSessionId(),
      identity: { sandboxId: id, templateId, envs, defaults },
      internetAccess: allowInternetAccess,
      withoutMemory: options.memory === false,
    };
    let machine: ReadyMachine;
    let running: SandboxRecord;
    try {
      await using restored = await restoreMachine(this.#deps, order, {
        sandboxId: id,
        scenario: "resume",
        writeDown: (launched) => setSandboxMachine(ledger, id, launched),
        abandon: (destroy) => this.#backToPaused(id, destroy),
      });
      const { vm, agent, restoreStartedMs } = restored;
      machine = { vm, agent, restoreStartedMs, origin: "resume" };
      const change = { machine: vm.record, endAtMs: clock.nowMs() + timeoutMs, envs };
      running = moveSandbox(ledger, id, "resuming", "running", change);
      restored.take();
    } catch (error) {
      log.error({ err: error, sandboxID: id }, "resuming failed; the sandbox stays paused");
      throw error;
    }
    reach("resume.running");
    const view = this.#attach(running, machine);
    terminator.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
    return view;
  }

  /** Ends a paused sandbox and removes what is left of it. */
  killInQueue(record: SandboxRecord, reason: "killed" | "stopped"): void {
    if (record.state === "paused_in_memory") {
      this.inMemory.endInQueue(record, reason);
      return;
    }
    const continuation = getSnapshot(this.#deps.ledger, record.snapshotId);
    this.#departures.leave({ record, reason, continuation });
  }

  /** @throws not_ready when the guest fails, or takes longer than `deadlineMs`, saying what it did not do. */
  async #inTime(answer: Promise<unknown>, failing: string, deadlineMs: number): Promise<void> {
    const answered = new AbortController();
    const late = this.#deps.clock.sleep(deadlineMs, answered.signal).then(() => {
      throw new Error(`nothing came in ${deadlineMs} ms`);
    });
    try {
      await Promise.race([answer, late]);
    } catch (error) {
      const message = `The sandbox was not paused: its guest ${failing}: ${messageOf(error)}`;
      throw new DomainError("not_ready", message, {}, { cause: error });
    } finally {
      late.catch(() => {});
      answered.abort();
    }
  }

  /** Lets the machine of a sandbox that could not be paused go on, under a new session; without it the sandbox leaves. */
  async #goOn({ vm, log }: LiveSession, pausing: SandboxRecord, snapshot: SnapshotRecord): Promise<void> {
    const { ledger, clock, terminator } = this.#deps;
    const { id } = pausing;
    let agent: GuestAgent;
    try {
      await vm.resume();
      agent = await openGuestAgent(vm, { clock, log });
    } catch (error) {
      const loss = `The sandbox's machine could not go on after a failed pause: ${messageOf(error)}`;
      const endMachine = () => vm.terminate();
      // If the daemon stops before the ledger knows, the next one finds the machine and decides.
      await terminator.untilDone({ sandboxID: id }, async () => {
        this.#departures.leave({ record: pausing, reason: "machine_died", loss, continuation: snapshot, endMachine });
      });
      return;
    }
    let running: SandboxRecord | undefined;
    await terminator.untilDone({ sandboxID: id }, async () => {
      running = moveSandbox(ledger, id, "pausing", "running");
    });
    // The daemon stops: the next one finds the machine and decides.
    if (!running) return agent.close();
    this.#attach(running, { vm, agent, origin: "adopted", restoreStartedMs: undefined });
    terminator.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
  }

  async #backToPaused(id: string, destroy: Parameters<Abandon>[0]): Promise<void> {
    const { ledger, terminator } = this.#deps;
    await terminator.untilDone({ sandboxID: id }, async () => {
      await destroy();
      moveSandbox(ledger, id, "resuming", "paused", { machine: null });
    });
  }
}
