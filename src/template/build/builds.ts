/**
 * The builds of templates: each runs the client's steps in a machine restored from the parent, saves it and publishes
 * the snapshot. The old build serves until the new one is published. A build that fails, is cancelled or loses its
 * daemon leaves nothing but a reason. This room may call base, machine, assets and uploads.
 */
import { DomainError, daemonStopping, isDomainError, messageOf } from "../../errors.ts";
import { type CapacityBudgets, type Reservation, reserve } from "../../ledger/capacity.ts";
import { markSnapshotReady } from "../../ledger/snapshots.ts";
import {
  type BuildFailure,
  type BuildJob,
  type BuildLogEntry,
  failBuildJob,
  findBuildJob,
  finishBuildJob,
  listBuildingJobs,
  noteBuildPossession,
  readBuildLog,
  startBuildJob,
} from "../../ledger/template-builds.ts";
import { strikeUnneededSnapshots } from "../../ledger/template-upkeep.ts";
import { publishBuild, resolveTemplate } from "../../ledger/templates.ts";
import { newSnapshotPlace, removeSnapshot } from "../../machine/snapshot-files.ts";
import type { MachineShape } from "../../types.ts";
import { refuseUnreadyTemplate } from "../base/damage.ts";
import type { RegistryLogin } from "../registry/credentials.ts";
import type { BuildParent } from "./ground.ts";
import { BuildLayers } from "./layers.ts";
import { BuildLog } from "./log.ts";
import { decideStart } from "./machine.ts";
import { BuildMaking, type BuildPlan, type MadeSnapshot, type MakingDependencies } from "./making.ts";
import { BuildRemains } from "./remains.ts";
import { type BuildSpec, sourceRevision } from "./spec.ts";

export interface TemplateBuildDependencies extends Omit<MakingDependencies, "layers" | "remains" | "reserve"> {
  readonly budgets: CapacityBudgets;
  /** What the snapshots of steps may take of the disk; 0: there are none. */
  readonly layerBudgetBytes: number;
  /** The templates that are made when they are wanted. */
  readonly wantedTemplates: {
    /** @throws DomainError `not_ready` when the name means a template that is being made */
    readonly refuseUnmade: (name: string) => void;
  };
}

/** What a client asks for beside the steps. */
export interface BuildTerms {
  /** For the registry of the image; it is kept in memory until the image is there. */
  readonly login?: RegistryLogin | undefined;
  /** The index of the first step that is to run, whatever the cache has; below 0: the parent is taken anew, too. */
  readonly forcedFrom?: number;
}

/** One build under way. */
interface RunningBuild {
  readonly parent: BuildParent;
  readonly log: BuildLog;
  readonly cancel: AbortController;
  readonly done: Promise<void>;
}

const cancelled = "the build was cancelled";
const stopped = "the build was cancelled: the daemon stopped";
/** Nobody may be there to cancel a build, and a command that never ends must not keep its capacity for ever. */
const maxBuildMs = 2 * 3_600_000;

export class TemplateBuilds {
  readonly #deps: TemplateBuildDependencies;
  readonly #running = new Map<string, RunningBuild>();
  readonly #closing = new AbortController();
  readonly #remains: BuildRemains;
  readonly #layers: BuildLayers;
  readonly #making: BuildMaking;
  /** The clearing up after builds that an earlier daemon left. */
  #recovering: readonly Promise<void>[] = [];

  constructor(deps: TemplateBuildDependencies) {
    this.#deps = deps;
    this.#remains = new BuildRemains(deps, this.#closing.signal);
    this.#layers = new BuildLayers({ ...deps, engine: deps.driver.info, budgetBytes: deps.layerBudgetBytes });
    const reserveShape = (buildId: string, shape: MachineShape) => this.#reserve(buildId, shape);
    this.#making = new BuildMaking({ ...deps, layers: this.#layers, remains: this.#remains, reserve: reserveShape });
  }

  /**
   * Starts a waiting build in the background, after the checks that need no machine and no registry.
   * @throws DomainError `failed_precondition` (not waiting, files not uploaded), `not_found` (parent), `unsupported`
   *   (shape), `capacity_exhausted`, `disk_pressure`, `not_ready` (the daemon stops, or `base` is damaged); the build
   *   waits on
   */
  async start(job: BuildJob, spec: BuildSpec, terms: BuildTerms = {}): Promise<void> {
    const { ledger, uploads, admitDisk, wantedTemplates } = this.#deps;
    if (job.state !== "waiting") throw new DomainError("failed_precondition", "build is not in waiting state");
    for (const step of spec.steps) if (step.type === "COPY") await uploads.mustHave(step.filesHash, step.source);
    await admitDisk("build a template");
    if (this.#closing.signal.aborted) throw daemonStopping();
    const { from } = spec;
    const { login, forcedFrom = Number.POSITIVE_INFINITY } = terms;
    if (from.kind === "image") {
      const order = { reference: from.reference, login };
      this.#run({ job: startBuildJob(ledger, job.id), spec, parent: { kind: "image", order }, forcedFrom });
      return;
    }
    wantedTemplates.refuseUnmade(from.name);
    const template = resolveTemplate(ledger, from.name, from.tag);
    refuseUnreadyTemplate(ledger, template);
    const start = decideStart(template, job);
    const plan = ledger.write((): BuildPlan => {
      const started = startBuildJob(ledger, job.id);
      const reservation = this.#reserve(job.id, start.shape);
      return { job: started, spec, parent: { kind: "template", template, start, reservation }, forcedFrom };
    });
    this.#run(plan);
  }

  /** @throws DomainError `capacity_exhausted` */
  #reserve(buildId: string, shape: MachineShape): Reservation {
    const { ledger, budgets } = this.#deps;
    return ledger.write(() => {
      const reservation = reserve(ledger, { kind: "active", shape, budgets });
      noteBuildPossession(ledger, buildId, { reservationId: reservation.id });
      return reservation;
    });
  }

  /** Fails a waiting build that will never start, and writes down why. */
  refuse(job: BuildJob, error: unknown): void {
    failBuildJob(this.#deps.ledger, job.id, { message: messageOf(error), step: "base", logEntries: [] }, []);
  }

  /**
   * Ends a build that waits or is under way here, and waits until its machine and snapshot are gone. A build that has
   * ended stays as it is.
   */
  async cancel({ id }: Pick<BuildJob, "id">): Promise<void> {
    const { ledger } = this.#deps;
    const running = this.#running.get(id);
    if (running) {
      running.cancel.abort(new DomainError("cancelled", cancelled));
      return running.done;
    }
    const job = findBuildJob(ledger, id);
    if (job?.state === "waiting") failBuildJob(ledger, id, { message: cancelled, logEntries: [] }, []);
  }

  /** The log of a build up to now. */
  log(buildId: string): readonly BuildLogEntry[] {
    return this.#running.get(buildId)?.log.entries ?? readBuildLog(this.#deps.ledger, buildId);
  }

  /** Resolves when a build has ended; at once when it is not under way here. */
  async finished(buildId: string): Promise<void> {
    await this.#running.get(buildId)?.done;
  }

  /**
   * Clears up after builds that were under way when an earlier daemon died: machine, snapshot, reservation. Waits for
   * the first try only, because a machine that does not go must not keep the daemon from serving. Call it before
   * anything is served, and before folders without an owner are removed.
   */
  async recover(): Promise<void> {
    const tried = listBuildingJobs(this.#deps.ledger).map(
      (job) =>
        new Promise<void>((resolve) => {
          this.#recovering = [...this.#recovering, this.#remains.recover(job, resolve)];
        }),
    );
    await Promise.all(tried);
    await this.collect();
  }

  /** Removes snapshots of templates that nothing needs any more. The next start removes files that cannot go now. */
  async collect(): Promise<void> {
    const { ledger, log } = this.#deps;
    this.#layers.keepBudget();
    const parents = [...this.#running.values()].flatMap(({ parent }) =>
      parent.kind === "template" ? [parent.template.snapshot.id] : [],
    );
    const needed = new Set([...parents, ...this.#making.layersInUse]);
    for (const { id, folder, logicalId } of strikeUnneededSnapshots(ledger, needed)) {
      log.info({ snapshotID: id, templateID: logicalId }, "removing a template's snapshot that nothing needs");
      const onFailure = (error: unknown) =>
        log.error({ err: error, folder }, "a template's snapshot cannot be removed");
      await removeSnapshot(folder).catch(onFailure);
    }
  }

  /** Forgets the snapshots of all steps. @returns how many there were, and their size */
  async pruneLayers(): Promise<{ layers: number; sizeBytes: number }> {
    const pruned = this.#layers.prune();
    await this.collect();
    return pruned;
  }

  /** Cancels every build and waits until their machines and snapshots are gone. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const { cancel } of this.#running.values()) cancel.abort(new DomainError("cancelled", stopped));
    await Promise.all([...this.#recovering, ...[...this.#running.values()].map(({ done }) => done)]);
  }

  #run(plan: BuildPlan): void {
    const { log: logger, clock } = this.#deps;
    const { job } = plan;
    const log = new BuildLog(clock);
    const cancel = new AbortController();
    const ended = new AbortController();
    clock.sleep(maxBuildMs, ended.signal).then(
      () => cancel.abort(new DomainError("deadline_exceeded", "the build took longer than 2 hours")),
      () => {},
    );
    const done = this.#build(plan, log, cancel.signal)
      .catch((error) => logger.error({ err: error, buildID: job.id }, "the clearing up after a build failed"))
      .finally(() => {
        ended.abort();
        this.#running.delete(job.id);
      });
    this.#running.set(job.id, { parent: plan.parent, log, cancel, done });
  }

  async #build(plan: BuildPlan, log: BuildLog, signal: AbortSignal): Promise<void> {
    const { clock, log: logger, recordSample, reach, snapshotsFolder } = this.#deps;
    const { job } = plan;
    const context = { templateID: job.templateId, buildID: job.id };
    const startedMs = clock.monotonicMs();
    const place = newSnapshotPlace(snapshotsFolder);
    logger.info(context, "build started");
    try {
      log.add("info", `Building template ${job.templateId}/${job.id}`);
      const made = await this.#making.make(plan, place, log, signal);
      reach("build.ended");
      log.add("info", `Build finished, took ${Math.round((clock.monotonicMs() - startedMs) / 1000)}s`);
      this.#publish(plan, place.id, made, log);
    } catch (error) {
      const reason = describeFailure(signal.aborted ? signal.reason : error, log);
      log.add("error", `Build failed: ${reason.message}`);
      logger.warn({ ...context, err: error, step: reason.step }, "build failed");
      await this.#remains.fail(job, place.id, reason, log.entries);
      // The steps that ran may have taken the place of older layers.
      await this.collect();
      return;
    }
    reach("build.published");
    recordSample("cold_template_build", clock.monotonicMs() - startedMs);
    logger.info({ ...context, ms: clock.monotonicMs() - startedMs }, "build ready");
    await this.collect();
  }

  #publish({ job, spec }: BuildPlan, snapshotId: string, made: MadeSnapshot, log: BuildLog): void {
    const { ledger } = this.#deps;
    const { id, templateId, tags } = job;
    const { facts, defaults, ground } = made;
    const { start, parentId } = ground;
    const revision = sourceRevision(spec, parentId);
    const source = { revision, parentBuildId: parentId, spec: JSON.stringify(spec) };
    ledger.writeDurably(() => {
      markSnapshotReady(ledger, snapshotId, facts);
      publishBuild(ledger, { id, templateId, snapshotId, shape: start.shape, tags, defaults, source });
      finishBuildJob(ledger, id, log.entries);
    });
  }
}

function describeFailure(error: unknown, log: BuildLog): BuildFailure {
  const message = messageOf(isDomainError(error) || !(error instanceof AggregateError) ? error : error.errors[0]);
  return { message, step: log.step, logEntries: log.tail.slice(-20) };
}
