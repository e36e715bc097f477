/**
 * The pause of a running sandbox: it becomes a continuation that holds no capacity. A step that fails leaves the
 * sandbox running. A method named `…InQueue` is for callers in the sandbox's serial queue.
 */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import type { SnapshotFacts, SnapshotRecord } from "../../ledger/snapshots.ts";
import type { ContinuationReason, SandboxRecord } from "../../types.ts";
import type { PauseOptions } from "../contract.ts";
import { captureSession, discardContinuation, registerContinuation } from "../machines/capture.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import type { SandboxContext } from "./context.ts";
import type { PausedInMemory } from "./paused-in-memory.ts";
import { completePause } from "./saved-pause.ts";

const syncDeadlineMs = 30_000;
const pingDeadlineMs = 5_000;

export class SandboxPauses {
  readonly #context: SandboxContext;
  readonly #inMemory: PausedInMemory;

  constructor(context: SandboxContext, inMemory: PausedInMemory) {
    this.#context = context;
    this.#inMemory = inMemory;
  }

  /**
   * Saves a running sandbox as a continuation and releases its capacity. On a host that saves nothing at the moment the
   * sandbox is paused in memory, keeps its capacity and is saved later.
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
      throw new DomainError("invalid_state", `Error pausing sandbox - sandbox '${id}' is already paused`);
    });
  }

  /**
   * Pauses a running sandbox. The pause is durable when this returns, and the machine and the reservation are gone.
   * @param memory false: only the disk is kept, with all that the guest has written
   * @throws DomainError `disk_pressure`, `machine_failed`, `not_ready` when the guest does not answer; the sandbox goes
   *   on, or leaves when its machine cannot. `not_ready` when the daemon stops meanwhile; the next one finishes the
   *   pause.
   */
  async pauseInQueue(id: string, reason: ContinuationReason, memory: boolean): Promise<void> {
    const { deps, registry } = this.#context;
    const { ledger, disk, clock } = deps;
    const { session } = registry.getRunning(id);
    await disk.admit("pause a sandbox", "save");
    if (!memory) await this.#inTime(session.agent.sync(), "did not write its files to its disk", syncDeadlineMs);
    const [pausing, snapshot] = ledger.write(() => [
      moveSandbox(ledger, id, "running", "pausing"),
      registerContinuation(deps, id, reason),
    ]);
    registry.change(pausing, undefined);
    session.end(new DomainError("not_found", "The sandbox was paused"));
    let facts: SnapshotFacts;
    try {
      facts = await captureSession(deps, session, snapshot, { isLast: true, scenario: "pause", memory });
    } catch (error) {
      if (memory && isDomainError(error, "not_ready")) {
        const { vm, bootId } = session;
        return this.#inMemory.keepInQueue(pausing, { vm, bootId, snapshot }, error);
      }
      session.log.error({ err: error }, "pausing failed; the sandbox goes on");
      await this.#goOn(session, pausing, snapshot);
      throw error;
    }
    await completePause(this.#context, session.vm, { record: pausing, snapshot, facts, pausedAtMs: clock.nowMs() });
    deps.logs.note(id, "The sandbox was paused", { event: "paused", reason });
    session.log.info({ reason, snapshotID: snapshot.id }, "sandbox paused");
  }

  /** Lets the machine of a failed pause go on, under a new session. If the machine cannot, the sandbox leaves. */
  async #goOn({ vm, log }: LiveSession, pausing: SandboxRecord, snapshot: SnapshotRecord): Promise<void> {
    const { deps, sessions, departures } = this.#context;
    const { ledger, clock, unfinishedWork } = deps;
    const { id } = pausing;
    let agent: GuestAgent;
    try {
      await vm.resume();
      agent = await openGuestAgent(vm, { clock, log });
    } catch (error) {
      const loss = `The sandbox's machine could not go on after a failed pause: ${messageOf(error)}`;
      const endMachine = () => vm.terminate();
      // If the daemon stops before the ledger is written, the next one finds the machine and decides.
      await unfinishedWork.untilDone({ sandboxID: id }, async () => {
        departures.leave({ record: pausing, reason: "machine_died", loss, continuation: snapshot, endMachine });
      });
      return;
    }
    let running: SandboxRecord | undefined;
    await unfinishedWork.untilDone({ sandboxID: id }, async () => {
      running = moveSandbox(ledger, id, "pausing", "running");
    });
    // The daemon stops: the next one finds the machine and decides.
    if (!running) return agent.close();
    sessions.attach(running, { vm, agent, origin: "adopted", restoreStartedMs: undefined });
    unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
  }

  /**
   * @throws DomainError `not_ready`, naming what the guest did not do, when it fails or takes longer than `deadlineMs`
   */
  async #inTime(answer: Promise<unknown>, failing: string, deadlineMs: number): Promise<void> {
    const answered = new AbortController();
    const late = this.#context.deps.clock.sleep(deadlineMs, answered.signal).then(() => {
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
}
