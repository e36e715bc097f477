/**
 * The forks of a running sandbox, and the follow-ups of a paused one: new sandboxes that go on from another's moment.
 * A running source stops for the capture, in its serial queue; children are restored beside it.
 */
import { DomainError } from "../../errors.ts";
import { getSnapshot, markSnapshotReady, refuseUnreadySnapshot, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { SandboxRecord } from "../../types.ts";
import type { FollowupRequest, ForkOutcome, SandboxView } from "../contract.ts";
import { discardContinuation, registerContinuation } from "../machines/capture.ts";
import { captureInPlace } from "./capture-in-place.ts";
import type { SandboxContext } from "./context.ts";
import type { ChildStart, SandboxCreation } from "./create.ts";
import { enrollSandbox } from "./enroll.ts";
import type { PausedInMemory } from "./paused-in-memory.ts";
import { refuseWhilePausing } from "./stalled-pauses.ts";

interface ForkOptions {
  readonly count: number;
  readonly timeoutMs: number;
}

/** So many children are restored at a time, because more would only wait for each other's processor. */
const restoresAtOnce = 4;

export class SandboxForks {
  readonly #context: SandboxContext;
  readonly #creation: SandboxCreation;
  readonly #inMemory: PausedInMemory;

  constructor(
    context: SandboxContext,
    { creation, inMemory }: { readonly creation: SandboxCreation; readonly inMemory: PausedInMemory },
  ) {
    this.#context = context;
    this.#creation = creation;
    this.#inMemory = inMemory;
  }

  /**
   * Makes `count` sandboxes that go on from the same moment as this one, which stops for the capture and goes on too.
   * @throws DomainError `not_found`, `invalid_state` (paused), `invalid_argument` (more than may exist),
   *   `disk_pressure`, `machine_failed`, `not_ready`; `unsupported` on a host where one snapshot starts one machine
   *   only
   */
  async fork(id: string, options: ForkOptions): Promise<ForkOutcome[]> {
    const { deps, registry, queue } = this.#context;
    const { ledger, disk } = deps;
    this.#refuseImpossible(options);
    const [source, snapshot] = await queue.run(id, async () => {
      if (registry.get(id).state === "paused") {
        throw new DomainError("invalid_state", `Sandbox ${id} is paused: resume it first`);
      }
      const { record, session } = registry.getRunning(id);
      await disk.admit("fork a sandbox", "save");
      const moment = registerContinuation(deps, id, "fork");
      await captureInPlace(this.#context, session, moment, {
        scenario: "fork",
        publish: (facts) => markSnapshotReady(ledger, moment.id, facts),
      });
      deps.logs.note(id, `The sandbox was forked ${options.count} times`, { event: "forked" });
      return [record, moment] as const;
    });
    return queue.runAlways(snapshot.id, () => this.#restoreForks(source, snapshot, options));
  }

  /**
   * Makes a new sandbox that goes on where a paused one stopped; the paused one stays paused. Runs in the paused
   * sandbox's queue, so that its snapshot stays while it is restored.
   * @returns the new sandbox, and the reason why the paused one was paused
   * @throws DomainError `invalid_state` (not paused); all that a create throws
   */
  followUp(id: string, request: FollowupRequest): Promise<{ view: SandboxView; reason: string }> {
    const { deps, registry, queue, savedPauses } = this.#context;
    const { ledger, disk } = deps;
    return queue.run(id, async (overtaken) => {
      const found = registry.get(id);
      if (found.state === "running") {
        throw new DomainError("invalid_state", `Sandbox ${id} is running: only a paused one can be followed up`);
      }
      refuseWhilePausing(found.record);
      if (found.record.state === "paused_in_memory") await this.#inMemory.saveInQueue(found.record);
      // The machine that was saved still has the files of the snapshot open.
      await savedPauses.untilMachineGone(id, overtaken);
      const { record: source } = registry.get(id);
      refuseUnreadySnapshot(ledger, source.snapshotId);
      await disk.admit("follow up a sandbox");
      const snapshot = getSnapshot(ledger, source.snapshotId);
      if (!snapshot?.reason) throw new DomainError("internal", `paused sandbox ${id} has no continuation`);
      const { timeoutMs, metadata = source.metadata, envs = source.envs } = request;
      const child = { ...source, metadata, envs };
      const view = await this.#spawn(child, snapshot, { origin: "followup", timeoutMs }, overtaken);
      return { view, reason: snapshot.reason };
    });
  }

  #refuseImpossible({ count }: ForkOptions): void {
    const { budgets, driver } = this.#context.deps;
    const { engine, abilities } = driver.info;
    if (!abilities.fanOut.supported) {
      const message = `the ${engine} engine cannot fork a sandbox on this host: ${abilities.fanOut.reason}`;
      throw new DomainError("unsupported", message);
    }
    if (count >= budgets.sandboxes) {
      const message = `count must be less than the ${budgets.sandboxes} sandboxes that may exist`;
      throw new DomainError("invalid_argument", message);
    }
  }

  /** Restores children of `source` from their common moment, which is removed afterwards. */
  async #restoreForks(
    source: SandboxRecord,
    snapshot: SnapshotRecord,
    { count, timeoutMs }: ForkOptions,
  ): Promise<ForkOutcome[]> {
    const { ledger, unfinishedWork } = this.#context.deps;
    const outcomes: ForkOutcome[] = [];
    let next = 0;
    const worker = async () => {
      for (let child = next++; child < count; child = next++) {
        outcomes[child] = await this.#spawn(source, snapshot, { origin: "fork", timeoutMs }).then(
          (view) => ({ view }),
          (error: unknown) => ({ error }),
        );
      }
    };
    await Promise.all(Array.from({ length: restoresAtOnce }, worker));
    unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
    return outcomes;
  }

  /** Admits and starts one sandbox that is like `source`. */
  async #spawn(
    source: SandboxRecord,
    snapshot: SnapshotRecord,
    start: ChildStart,
    overtaken?: AbortSignal,
  ): Promise<SandboxView> {
    const { deps } = this.#context;
    const lifecycle = { ...source.lifecycle, timeoutMs: start.timeoutMs };
    const child = { ...source, id: deps.newSandboxId(), snapshotId: snapshot.id, lifecycle };
    const record = await deps.admission.admit(source.shape, () => enrollSandbox(deps, child), overtaken);
    return this.#creation.startFrom(record, snapshot, start);
  }
}
