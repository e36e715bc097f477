/**
 * The remains of a build that ends: a machine, its reservation, and, if it failed, half a snapshot and a reason. Every
 * step here is tried until it succeeds or the daemon stops; the next daemon finds the remains in the ledger.
 */
import { join } from "node:path";
import type { Clock } from "../../clock.ts";
import { isLayer } from "../../ledger/build-layers.ts";
import { release } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import { deleteSnapshot, getSnapshot } from "../../ledger/snapshots.ts";
import { type BuildFailure, type BuildJob, type BuildLogEntry, failBuildJob } from "../../ledger/template-builds.ts";
import type { Logger } from "../../log.ts";
import type { VmDriver } from "../../machine/driver.ts";
import { removeSnapshot } from "../../machine/snapshot-files.ts";
import { untilDone } from "../../until-done.ts";

export interface BuildRemainsDependencies {
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
}

export class BuildRemains {
  readonly #deps: BuildRemainsDependencies;
  readonly #signal: AbortSignal;

  /** @param signal aborted when the daemon stops; no step is tried again then */
  constructor(deps: BuildRemainsDependencies, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
  }

  /** Ends the machine and releases its reservation after that. */
  async endMachine({ id }: BuildJob, destroy: () => Promise<void>, reservationId: string): Promise<void> {
    await this.#untilDone(id, async () => {
      await destroy();
      release(this.#deps.ledger, reservationId);
    });
  }

  /** Writes down why the build failed, after its snapshot was removed. */
  async fail({ id }: BuildJob, snapshotId: string, reason: BuildFailure, log: readonly BuildLogEntry[]): Promise<void> {
    await this.#untilDone(id, async () => {
      await this.#dropSnapshot(snapshotId);
      failBuildJob(this.#deps.ledger, id, reason, log);
    });
  }

  /**
   * Clears up after a build that was under way when an earlier daemon died. Until then the build counts as under way
   * and its capacity stays reserved.
   * @param onTried called after each try, failed or not
   */
  async recover(job: BuildJob, onTried: () => void): Promise<void> {
    const { ledger, driver, log } = this.#deps;
    log.warn({ templateID: job.templateId, buildID: job.id }, "a build was under way when the daemon died");
    const clearUp = async () => {
      if (job.machine) await driver.discard(job.machine);
      // A layer that is whole is worth keeping.
      if (job.snapshotId && !isLayer(ledger, job.snapshotId)) await this.#dropSnapshot(job.snapshotId);
      const reason = "the build was interrupted: the daemon died. Start it again.";
      ledger.writeDurably(() => {
        failBuildJob(ledger, job.id, { message: reason, logEntries: [] }, []);
        if (job.reservationId) release(ledger, job.reservationId);
      });
    };
    await this.#untilDone(job.id, () => clearUp().finally(onTried));
  }

  async #untilDone(buildId: string, step: () => Promise<void>): Promise<void> {
    const { clock, log } = this.#deps;
    const onFailure = (error: unknown, retryMs: number) =>
      log.error({ err: error, buildID: buildId, retryMs }, "the end of a build failed; its capacity stays reserved");
    await untilDone(step, { clock, signal: this.#signal, onFailure });
  }

  /** Removes an unfinished snapshot: first from the ledger, which refuses if anything needs the snapshot. */
  async #dropSnapshot(id: string): Promise<void> {
    const { ledger, snapshotsFolder } = this.#deps;
    if (getSnapshot(ledger, id)) deleteSnapshot(ledger, id);
    await removeSnapshot(join(snapshotsFolder, id));
  }
}
