/**
 * Saved pauses: the sandbox rests in the snapshot that was saved. The machine that it was saved from is of no use any
 * more, because its disk belongs to the snapshot, and ends in the background; until then it holds its capacity.
 */
import { comesWithin } from "../../clock.ts";
import { DomainError, daemonStopping } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { forgetMachine, moveSandbox } from "../../ledger/sandboxes.ts";
import { markSnapshotReady, type SnapshotFacts, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { Vm } from "../../machine/driver.ts";
import type { SandboxRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import type { SandboxRegistry } from "./registry.ts";

/** How long a resume waits for the machine of the pause before it. */
const endDeadlineMs = 10_000;

export interface SavedPause {
  /** In state `pausing` or `paused_in_memory`. */
  readonly record: SandboxRecord;
  readonly snapshot: SnapshotRecord;
  readonly facts: SnapshotFacts;
  readonly pausedAtMs: number;
}

/** Writes down, durably, that a sandbox rests in a complete snapshot. Its machine may still exist. */
export function publishPause(ledger: Ledger, { record, snapshot, facts, pausedAtMs }: SavedPause): SandboxRecord {
  return ledger.writeDurably(() => {
    markSnapshotReady(ledger, snapshot.id, facts);
    return moveSandbox(ledger, record.id, record.state, "paused", { snapshotId: snapshot.id, endAtMs: pausedAtMs });
  });
}

export class SavedPauses {
  readonly #deps: Pick<RuntimeDependencies, "ledger" | "clock" | "unfinishedWork" | "reach">;
  readonly #registry: SandboxRegistry;
  /** Machines that have not ended yet, by sandbox. */
  readonly #ending = new Map<string, Promise<void>>();

  constructor(deps: RuntimeDependencies, registry: SandboxRegistry) {
    this.#deps = deps;
    this.#registry = registry;
  }

  /**
   * Publishes a saved pause, and lets the machine end in the background.
   * @throws DomainError `not_ready` when the daemon stops meanwhile; the next daemon finds the whole snapshot
   */
  async publish(vm: Vm, saved: SavedPause): Promise<void> {
    const { ledger, unfinishedWork, reach } = this.#deps;
    const { id } = saved.record;
    let tries = 0;
    const isPublished = await unfinishedWork.untilDone({ sandboxID: id }, async () => {
      tries += 1;
      // A disk that is too full for the ledger has more room without the machine's files.
      if (tries > 1) await Promise.allSettled([vm.terminate()]);
      this.#registry.change(publishPause(ledger, saved), undefined);
    });
    if (!isPublished) throw daemonStopping();
    reach("pause.published");
    this.endMachine(id, vm.record.sessionId, () => vm.terminate());
  }

  /**
   * Ends the machine that a paused sandbox was saved from, in the background.
   * @param end ends the machine and removes its files; called again, with pauses, until it succeeds
   */
  endMachine(id: string, sessionId: string, end: () => Promise<void>): void {
    const { ledger, unfinishedWork, reach } = this.#deps;
    const ended = new Promise<void>((resolve) => {
      unfinishedWork.finish({ sandboxID: id }, async () => {
        await end();
        reach("pause.ended");
        const rests = forgetMachine(ledger, id, sessionId);
        if (rests) this.#registry.update(rests);
        this.#ending.delete(id);
        resolve();
      });
    });
    this.#ending.set(id, ended);
  }

  /**
   * Waits until a paused sandbox has no machine any more, so that it may get another one.
   * @param signal ends the wait
   * @throws DomainError `not_ready` when the machine has not ended in time; the signal's reason
   */
  async untilMachineGone(id: string, signal: AbortSignal): Promise<void> {
    const ended = this.#ending.get(id);
    if (!ended) return;
    if (await comesWithin(this.#deps.clock, ended, endDeadlineMs, signal)) return;
    const problem = `The machine that sandbox ${id} was paused from has not ended yet. Try again later.`;
    throw new DomainError("not_ready", problem);
  }
}
