/**
 * The builds of templates: each runs the client's steps in a machine restored from the parent, saves it and publishes
 * the snapshot. The old build serves until the new one is published. A build that fails, is cancelled or loses its
 * daemon leaves nothing but a reason. This room may call base, machine, assets and uploads.
 */
import { DomainError, daemonStopping, isDomainError, messageOf } from "../../errors.ts";
import { saveMachine } from "../../guest-machine/save.ts";
import { type CapacityBudgets, type Reservation, reserve } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import { markSnapshotReady, registerSnapshot, type SnapshotFacts } from "../../ledger/snapshots.ts";
import {
  type BuildFailure,
  type BuildJob,
  type BuildLogEntry,
  failBuildJob,
  finishBuildJob,
  listBuildingJobs,
  noteBuildPossession,
  readBuildLog,
  startBuildJob,
} from "../../ledger/template-builds.ts";
import { strikeUnneededSnapshots } from "../../ledger/template-upkeep.ts";
import { publishBuild, type ResolvedTemplate, resolveTemplate } from "../../ledger/templates.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import { newSnapshotPlace, removeSnapshot, type SnapshotPlace } from "../../machine/snapshot-files.ts";
import { Scope } from "../../scope.ts";
import type { SpanName } from "../../types.ts";
import { refuseUnreadyTemplate } from "../base/damage.ts";
import { launchIn } from "../machine/machine.ts";
import { settle } from "../machine/warm-up.ts";
import type { UploadCache } from "../uploads/cache.ts";
import { checkFreeDisk } from "./free-disk.ts";
import type { BuildContext, GuestBuild } from "./guest-command.ts";
import { BuildLog } from "./log.ts";
import {
  type BuildMachineDependencies,
  type BuildStart,
  decideStart,
  openBuildAgent,
  startBuildMachine,
} from "./machine.ts";
import { BuildRemains } from "./remains.ts";
import { type BuildSpec, sourceRevision } from "./spec.ts";
import { startAndWait } from "./start-command.ts";
import { runSteps } from "./steps.ts";

export interface TemplateBuildDependencies extends BuildMachineDependencies {
  readonly ledger: Ledger;
  readonly budgets: CapacityBudgets;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
  readonly uploads: UploadCache;
  readonly reach: ReachStep;
  /** The file in a guest that names its template and build. */
  readonly markerPath: string;
  /** @throws DomainError `disk_pressure` while there is not enough free disk for `work`. */
  readonly admitDisk: (what: string, work?: "save") => Promise<void>;
  readonly recordSample: (span: SpanName, durationMs: number) => void;
  /** The templates that are made when they are wanted. */
  readonly wantedTemplates: {
    /** @throws DomainError `not_ready` when the name means a template that is being made */
    readonly refuseUnmade: (name: string) => void;
  };
}

/** One build under way. */
interface RunningBuild {
  readonly parentSnapshotId: string;
  readonly log: BuildLog;
  readonly cancel: AbortController;
  readonly done: Promise<void>;
}

interface BuildPlan {
  readonly job: BuildJob;
  readonly spec: BuildSpec;
  readonly parent: ResolvedTemplate;
  readonly start: BuildStart;
  readonly reservation: Reservation;
}

const stopped = "the build was cancelled: the daemon stopped";
/** No client can cancel a build, and a command that never ends must not keep its capacity for ever. */
const maxBuildMs = 2 * 3_600_000;

export class TemplateBuilds {
  readonly #deps: TemplateBuildDependencies;
  readonly #running = new Map<string, RunningBuild>();
  readonly #closing = new AbortController();
  readonly #remains: BuildRemains;
  /** The clearing up after builds that an earlier daemon left. */
  #recovering: readonly Promise<void>[] = [];

  constructor(deps: TemplateBuildDependencies) {
    this.#deps = deps;
    this.#remains = new BuildRemains(deps, this.#closing.signal);
  }

  /**
   * Starts a waiting build in the background, after the checks that need no machine.
   * @throws DomainError `failed_precondition` (not waiting, files not uploaded), `not_found` (parent), `unsupported`
   *   (shape), `capacity_exhausted`, `disk_pressure`, `not_ready` (the daemon stops, or `base` is damaged); the build
   *   waits on
   */
  async start(job: BuildJob, spec: BuildSpec): Promise<void> {
    const { ledger, budgets, uploads, admitDisk, wantedTemplates } = this.#deps;
    if (job.state !== "waiting") throw new DomainError("failed_precondition", "build is not in waiting state");
    for (const step of spec.steps) if (step.type === "COPY") await uploads.mustHave(step.filesHash, step.source);
    await admitDisk("build a template");
    if (this.#closing.signal.aborted) throw daemonStopping();
    wantedTemplates.refuseUnmade(spec.from.name);
    const parent = resolveTemplate(ledger, spec.from.name, spec.from.tag);
    refuseUnreadyTemplate(ledger, parent);
    const start = decideStart(parent, job);
    const plan = ledger.write(() => {
      const started = startBuildJob(ledger, job.id);
      const reservation = reserve(ledger, { kind: "active", shape: start.shape, budgets });
      noteBuildPossession(ledger, job.id, { reservationId: reservation.id });
      return { job: started, spec, parent, start, reservation };
    });
    this.#run(plan);
  }

  /** Fails a waiting build that will never start, and writes down why. */
  refuse(job: BuildJob, error: unknown): void {
    failBuildJob(this.#deps.ledger, job.id, { message: messageOf(error), step: "base", logEntries: [] }, []);
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
    const parents = new Set([...this.#running.values()].map(({ parentSnapshotId }) => parentSnapshotId));
    for (const { id, folder, logicalId } of strikeUnneededSnapshots(ledger, parents)) {
      log.info({ snapshotID: id, templateID: logicalId }, "removing a template's snapshot that nothing needs");
      const onFailure = (error: unknown) =>
        log.error({ err: error, folder }, "a template's snapshot cannot be removed");
      await removeSnapshot(folder).catch(onFailure);
    }
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
    this.#running.set(job.id, { parentSnapshotId: plan.parent.snapshot.id, log, cancel, done });
  }

  async #build(plan: BuildPlan, log: BuildLog, signal: AbortSignal): Promise<void> {
    const { clock, log: logger, recordSample, reach, snapshotsFolder } = this.#deps;
    const { job } = plan;
    const context = { templateID: job.templateId, buildID: job.id };
    const startedMs = clock.monotonicMs();
    const place = newSnapshotPlace(snapshotsFolder);
    logger.info(context, "build started");
    try {
      const { facts, defaults } = await this.#makeSnapshot(plan, place, log, signal);
      reach("build.ended");
      log.add("info", "build finished");
      this.#publish(plan, place.id, facts, defaults, log);
    } catch (error) {
      const reason = describeFailure(signal.aborted ? signal.reason : error, log);
      log.add("error", reason.message);
      logger.warn({ ...context, err: error, step: reason.step }, "build failed");
      await this.#remains.fail(job, place.id, reason, log.entries);
      return;
    }
    reach("build.published");
    recordSample("cold_template_build", clock.monotonicMs() - startedMs);
    logger.info({ ...context, ms: clock.monotonicMs() - startedMs }, "build ready");
    await this.collect();
  }

  /**
   * The part of a build that needs a machine. When this returns or throws, the machine and its reservation are gone.
   */
  async #makeSnapshot(plan: BuildPlan, { id: snapshotId, folder }: SnapshotPlace, log: BuildLog, signal: AbortSignal) {
    const { ledger, clock, recordSample, uploads, admitDisk, reach } = this.#deps;
    const { job, spec, parent, start, reservation } = plan;
    await using scope = new Scope();
    reach("build.reserved");
    log.beginStep("base");
    log.add("info", `FROM ${[spec.from.name, spec.from.tag].filter((text) => text !== undefined).join(":")}`);
    if (start.kind === "boot") {
      const { vcpuCount, memoryMiB } = start.shape;
      log.add("info", `booting with ${vcpuCount} vCPUs and ${memoryMiB} MiB, because the snapshot has another shape`);
    }
    const vm = await launchIn(
      scope,
      () => startBuildMachine(this.#deps, start, signal),
      (destroy) => this.#remains.endMachine(job, destroy, reservation.id),
    );
    reach("build.launched");
    noteBuildPossession(ledger, job.id, { machine: vm.record });
    reach("build.recorded");
    const agent = await openBuildAgent(this.#deps, scope, vm, start, job.templateId, signal);
    const build: GuestBuild = { agent, log, signal };
    const context = await runSteps(build, spec.steps, parent.defaults, (hash) => uploads.pathOf(hash));
    log.beginStep("finalize");
    await startAndWait(build, spec, context, clock);
    await checkFreeDisk(build, job.minFreeDiskMiB);
    await this.#prepareSnapshot(build, job, context);
    reach("build.prepared");
    await admitDisk("save a template's snapshot", "save");
    registerSnapshot(ledger, { id: snapshotId, kind: "template", logicalId: job.templateId, folder, reason: null });
    noteBuildPossession(ledger, job.id, { snapshotId });
    reach("build.registered");
    const facts = await saveMachine(
      { vm, guest: agent },
      {
        folder,
        clock,
        signal,
        reach: (step) => reach(`build.${step}`),
        recordSample: (durationMs) => recordSample("snapshot_save", durationMs),
      },
    );
    return { facts, defaults: context };
  }

  /** Puts the template's defaults into the guest's memory: the agent keeps user and folder over every restore. */
  async #prepareSnapshot({ agent, signal }: GuestBuild, job: BuildJob, { user, workdir }: BuildContext): Promise<void> {
    const facts = `ENV_ID=${job.templateId}\nTEMPLATE_ID=${job.templateId}\nBUILD_ID=${job.id}\n`;
    await agent.setup({
      defaultUser: user,
      defaultCwd: workdir,
      files: [{ path: this.#deps.markerPath, content: facts, mode: 0o644 }],
    });
    await settle(agent, job.templateId, this.#deps.clock, signal);
  }

  #publish(
    { job, spec, parent, start }: BuildPlan,
    snapshotId: string,
    facts: SnapshotFacts,
    defaults: BuildContext,
    log: BuildLog,
  ): void {
    const { ledger } = this.#deps;
    const { id, templateId, tags } = job;
    const revision = sourceRevision(spec, parent.buildId);
    const source = { revision, parentBuildId: parent.buildId, spec: JSON.stringify(spec) };
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
