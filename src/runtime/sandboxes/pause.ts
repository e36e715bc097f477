/**
 * The pause of a running sandbox: it becomes a continuation that holds no capacity. A step that fails leaves the
 * sandbox running. A method named `…InQueue` is for callers in the sandbox's serial queue.
 */
import { comesWithin } from "../../clock.ts";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import type { SnapshotFacts } from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import type { ContinuationReason, SandboxRecord } from "../../types.ts";
import type { PauseOptions } from "../contract.ts";
import { captureSession, discardContinuation, registerContinuation } from "../machines/capture.ts";
import { describeReboot } from "../sessions/session-link.ts";
import type { SandboxContext } from "./context.ts";
import type { PausedInMemory } from "./paused-in-memory.ts";
import { type PauseUnderWay, refuseWhilePausing, StalledPauses } from "./stalled-pauses.ts";

const syncDeadlineMs = 30_000;
const pingDeadlineMs = 5_000;
/** How long the news of a dead machine may take to arrive on a busy host. */
const exitNewsMs = 1_000;

export class SandboxPauses {
  readonly #context: SandboxContext;
  readonly #inMemory: PausedInMemory;
  readonly stalled: StalledPauses;

  constructor(context: SandboxContext, inMemory: PausedInMemory) {
    this.#context = context;
    this.#inMemory = inMemory;
    this.stalled = new StalledPauses(context, (pause) => this.#saveInQueue(pause));
  }

  /**
   * Saves a running sandbox as a continuation. The pause is durable when this returns; the machine ends after that, and
   * then its capacity is released, as with a kill. On a host that saves nothing at the moment the sandbox is paused in
   * memory, keeps its capacity and is saved later.
   * @throws DomainError `not_found`, `invalid_state` (paused already); all that {@link pauseInQueue} throws
   */
  pause(
    id: string,
    reason: ContinuationReason,
    { memory = true, requireAnswer = false }: PauseOptions = {},
  ): Promise<void> {
    const { registry, queue } = this.#context;
    return queue.run(id, async () => {
      if (registry.get(id).state === "running") {
        const { agent } = registry.getRunning(id).session;
        if (requireAnswer) await this.#inTime(agent.ping(), "did not answer", pingDeadlineMs);
        return this.pauseInQueue(id, reason, memory);
      }
      refuseWhilePausing(registry.get(id).record);
      throw new DomainError("invalid_state", `Error pausing sandbox - sandbox '${id}' is already paused`);
    });
  }

  /**
   * Pauses a running sandbox. The pause is durable when this returns; the machine and the reservation go after that.
   * @param memory false: only the disk is kept, with all that the guest has written
   * @throws DomainError `disk_pressure`, `machine_failed`, `not_ready` when the guest does not answer; the sandbox goes
   *   on, or leaves when its machine is dead. `deadline_exceeded` when the machine lives and does not answer; the sandbox
   *   stays in state `pausing` and is paused once the machine answers. `not_ready` when the daemon stops meanwhile; the
   *   next one finishes the pause.
   */
  async pauseInQueue(id: string, reason: ContinuationReason, memory: boolean): Promise<void> {
    const { deps, registry } = this.#context;
    const { ledger, disk } = deps;
    const { session } = registry.getRunning(id);
    const { vm, bootId, log } = session;
    await disk.admit("pause a sandbox", "save");
    if (!memory) await this.#inTime(session.agent.sync(), "did not write its files to its disk", syncDeadlineMs);
    const [record, snapshot] = ledger.write(() => [
      moveSandbox(ledger, id, "running", "pausing"),
      registerContinuation(deps, id, reason),
    ]);
    registry.change(record, undefined);
    session.end(new DomainError("not_found", "The sandbox was paused"));
    await this.#saveInQueue({ record, vm, bootId, sandboxId: id, snapshot, memory, reason, log });
  }

  /** Saves the machine of a sandbox in state `pausing`. @throws as {@link pauseInQueue} */
  async #saveInQueue(pause: PauseUnderWay): Promise<void> {
    const { deps, savedPauses } = this.#context;
    const { record, vm, snapshot, memory, reason, log } = pause;
    let facts: SnapshotFacts;
    try {
      facts = await captureSession(deps, pause, snapshot, { isLast: true, scenario: "pause", memory });
    } catch (error) {
      if (memory && isDomainError(error, "not_ready")) return this.#inMemory.keepInQueue(record, pause, error);
      // The engine does what it was asked for once it goes on, so that it is of no use to ask for the contrary now.
      if (isDomainError(error, "deadline_exceeded") && vm.isAlive) throw this.stalled.keepInQueue(pause, error);
      log.error({ err: error }, "pausing failed; the sandbox goes on");
      await this.#goOn(pause);
      throw error;
    }
    await savedPauses.publish(vm, { record, snapshot, facts, pausedAtMs: deps.clock.nowMs() });
    deps.logs.note(record.id, "The sandbox was paused", { event: "paused", reason });
    log.info({ reason, snapshotID: snapshot.id }, "sandbox paused");
  }

  /**
   * Lets the machine of a failed pause go on, under a new session. If the machine is dead, the sandbox leaves.
   * @throws DomainError `deadline_exceeded` when the machine lives and does not go on; the pause is tried again then
   */
  async #goOn(pause: PauseUnderWay): Promise<void> {
    const { deps, sessions } = this.#context;
    const { ledger, clock, unfinishedWork } = deps;
    const { record, vm, bootId, snapshot, log } = pause;
    let agent: GuestAgent | undefined;
    try {
      await vm.resume();
      agent = await openGuestAgent(vm, { clock, log }).catch((error) => this.#unlessDead(vm, error, log));
    } catch (error) {
      if (await this.#isDead(vm)) return this.#lose(pause, messageOf(error));
      throw this.stalled.keepInQueue(pause, error);
    }
    const reboot = agent && describeReboot(bootId, agent);
    if (reboot !== undefined) {
      agent?.close();
      return this.#lose(pause, reboot);
    }
    let running: SandboxRecord | undefined;
    await unfinishedWork.untilDone({ sandboxID: record.id }, async () => {
      running = moveSandbox(ledger, record.id, "pausing", "running");
    });
    // The daemon stops: the next one finds the machine and decides.
    if (!running) return agent?.close();
    sessions.attach(running, { vm, agent, bootId, origin: "adopted", restoreStartedMs: undefined });
    unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
  }

  /** An agent that does not answer although its machine goes on is tried again by the session. */
  async #unlessDead(vm: Vm, error: unknown, log: Logger): Promise<undefined> {
    if (await this.#isDead(vm)) throw error;
    log.warn({ err: error }, "the agent does not answer after a failed pause; trying again");
  }

  /** Whether the machine is gone. The news of that may take a moment on a busy host. */
  async #isDead(vm: Vm): Promise<boolean> {
    await comesWithin(this.#context.deps.clock, vm.exited, exitNewsMs);
    return !vm.isAlive;
  }

  async #lose({ record, vm, snapshot }: PauseUnderWay, detail: string): Promise<void> {
    const { deps, departures } = this.#context;
    const loss = `The sandbox's machine could not go on after a failed pause: ${detail}`;
    const endMachine = () => vm.terminate();
    // If the daemon stops before the ledger is written, the next one finds the machine and decides.
    await deps.unfinishedWork.untilDone({ sandboxID: record.id }, async () => {
      departures.leave({ record, reason: "machine_died", loss, continuation: snapshot, endMachine });
    });
  }

  /**
   * @throws DomainError `not_ready`, naming what the guest did not do, when it fails or takes longer than `deadlineMs`
   */
  async #inTime(answer: Promise<unknown>, failing: string, deadlineMs: number): Promise<void> {
    try {
      if (await comesWithin(this.#context.deps.clock, answer, deadlineMs)) return;
      throw new Error(`nothing came in ${deadlineMs} ms`);
    } catch (error) {
      const message = `The sandbox was not paused: its guest ${failing}: ${messageOf(error)}`;
      throw new DomainError("not_ready", message, {}, { cause: error });
    }
  }
}
