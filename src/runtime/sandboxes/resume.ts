/**
 * The resume of a paused sandbox: it runs again under the same id and token, because a client or a request for it wants
 * that. A step that fails leaves the sandbox paused. A method named `…InQueue` is for callers in the sandbox's serial
 * queue.
 */
import { DomainError } from "../../errors.ts";
import { reserve } from "../../ledger/capacity.ts";
import { moveSandbox, setSandboxMachine } from "../../ledger/sandboxes.ts";
import { getSnapshot, refuseUnreadySnapshot } from "../../ledger/snapshots.ts";
import { newSessionId } from "../../machine/driver.ts";
import type { SandboxRecord } from "../../types.ts";
import type { MemoryOption, ResumeOptions, SandboxView } from "../contract.ts";
import { discardContinuation } from "../machines/capture.ts";
import { type Abandon, restoreMachine } from "../machines/restore.ts";
import type { Session } from "../sessions/session.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxDeadlines } from "./deadlines.ts";
import { isResumedByTraffic } from "./kept-memory.ts";
import type { PausedInMemory } from "./paused-in-memory.ts";
import type { ReadyMachine } from "./sessions.ts";
import { refuseWhilePausing } from "./stalled-pauses.ts";

/** A sandbox that a request resumed lives at least this long, as with E2B. */
const minAutoResumeMs = 300_000;

interface ResumeOrder extends ResumeOptions {
  readonly id: string;
  readonly timeoutMs: number;
  /** Ends the wait for capacity. */
  readonly overtaken: AbortSignal;
}

export class SandboxResumes {
  readonly #context: SandboxContext;
  readonly #inMemory: PausedInMemory;
  readonly #deadlines: SandboxDeadlines;

  constructor(
    context: SandboxContext,
    { inMemory, deadlines }: { readonly inMemory: PausedInMemory; readonly deadlines: SandboxDeadlines },
  ) {
    this.#context = context;
    this.#inMemory = inMemory;
    this.#deadlines = deadlines;
  }

  /**
   * Extends the time of a running sandbox, never shortens it; resumes a paused one, which then lives for `timeoutMs`.
   * @throws as {@link resume}, but for a running sandbox only `not_found`
   */
  connect(
    id: string,
    timeoutMs: number,
    option: MemoryOption = {},
  ): Promise<{ readonly view: SandboxView; readonly resumed: boolean }> {
    const { registry, queue } = this.#context;
    return queue.run(id, async (overtaken) => {
      if (registry.get(id).state === "running") {
        return { view: this.#deadlines.extendInQueue(id, timeoutMs), resumed: false };
      }
      return { view: await this.#resumeInQueue({ id, timeoutMs, overtaken, ...option }), resumed: true };
    });
  }

  /**
   * Brings a paused sandbox back under the same id and token: its processes where they were or, without memory, after a
   * boot.
   * @param options.memory false: boots even if there is a memory, which is lost like that of a computer without power
   * @throws DomainError `not_found`, `invalid_state` (running already), `capacity_exhausted`, `disk_pressure`,
   *   `machine_failed`, `failed_precondition` (a damaged snapshot), `not_ready`; the sandbox stays as it is
   */
  resume(id: string, timeoutMs: number, options: ResumeOptions = {}): Promise<SandboxView> {
    const { registry, queue } = this.#context;
    return queue.run(id, async (overtaken) => {
      if (registry.get(id).state === "paused") return this.#resumeInQueue({ id, timeoutMs, overtaken, ...options });
      throw new DomainError("invalid_state", `Sandbox ${id} is already running`);
    });
  }

  /**
   * Gives the session of a sandbox to a request that found none, and resumes the sandbox if it is paused and wants
   * that.
   * @returns undefined when there is no such sandbox, or requests do not resume it. @throws as {@link resume}
   */
  resumeForTraffic(id: string): Promise<Session | undefined> {
    const { deps, registry, queue } = this.#context;
    return queue.run(id, async (overtaken) => {
      const view = registry.view(id);
      if (view && isResumedByTraffic(deps.ledger, view)) {
        const timeoutMs = Math.max(view.record.lifecycle.timeoutMs, minAutoResumeMs);
        await this.#resumeInQueue({ id, timeoutMs, overtaken });
      }
      return view && registry.view(id)?.state === "running" ? registry.getRunning(id).session : undefined;
    });
  }

  /**
   * Sandboxes without a session that a request may be for: paused ones that a request resumes, and those whose machine
   * does not answer yet. A client that asks has yet to prove that it may.
   */
  *resumableByTraffic(): Iterable<SandboxView> {
    const { deps, registry } = this.#context;
    for (const view of registry.views()) {
      const isUnanswering = view.state === "running" && !registry.session(view.record.id);
      if (isUnanswering || isResumedByTraffic(deps.ledger, view)) yield view;
    }
  }

  async #resumeInQueue(order: ResumeOrder): Promise<SandboxView> {
    const { id, timeoutMs, memory } = order;
    const { registry, deps, sessions, savedPauses } = this.#context;
    const { ledger, clock, log, reach, unfinishedWork } = deps;
    const { record } = registry.get(id);
    refuseWhilePausing(record);
    const envs = { ...record.envs, ...order.envs };
    if (record.state === "paused_in_memory") {
      if (memory !== false) return this.#inMemory.resumeInQueue(record, timeoutMs, envs);
      await this.#inMemory.saveInQueue(record, false);
      return this.#resumeInQueue(order);
    }
    await savedPauses.untilMachineGone(id, order.overtaken);
    const snapshot = await this.#reserve(record, order.overtaken);
    let machine: ReadyMachine;
    let running: SandboxRecord;
    try {
      const { templateId, defaults, allowInternetAccess: internetAccess } = record;
      const identity = { sandboxId: id, templateId, envs, defaults };
      const sessionId = newSessionId();
      const restore = { snapshotFolder: snapshot.folder, sessionId, identity, internetAccess };
      await using restored = await restoreMachine(
        deps,
        { ...restore, withoutMemory: memory === false },
        {
          sandboxId: id,
          scenario: "resume",
          writeDown: (launched) => setSandboxMachine(ledger, id, launched),
          abandon: (destroy) => this.#backToPaused(id, destroy),
        },
      );
      const { vm, agent, restoreStartedMs } = restored;
      machine = { vm, agent, restoreStartedMs, origin: "resume" };
      const change = { machine: { ...vm.record, bootId: agent.bootId }, endAtMs: clock.nowMs() + timeoutMs, envs };
      running = moveSandbox(ledger, id, "resuming", "running", change);
      restored.take();
    } catch (error) {
      log.error({ err: error, sandboxID: id }, "resuming failed; the sandbox stays paused");
      throw error;
    }
    reach("resume.running");
    const view = sessions.attach(running, machine);
    unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
    return view;
  }

  /** Gives a paused sandbox capacity, and moves it to `resuming`. @returns the snapshot that it rests in */
  async #reserve({ id, shape, snapshotId }: SandboxRecord, overtaken: AbortSignal) {
    const { ledger, disk, budgets, admission, reach } = this.#context.deps;
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
    return snapshot;
  }

  async #backToPaused(id: string, destroy: Parameters<Abandon>[0]): Promise<void> {
    const { ledger, unfinishedWork } = this.#context.deps;
    await unfinishedWork.untilDone({ sandboxID: id }, async () => {
      await destroy();
      moveSandbox(ledger, id, "resuming", "paused", { machine: null });
    });
  }
}
