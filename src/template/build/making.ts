/**
 * The making of a template's snapshot: a machine stands on the parent, on an image or on a layer of an earlier build; the
 * steps run in it, each saved as a layer for later builds; then the start command, and the snapshot.
 */
import { saveMachine } from "../../guest-machine/save.ts";
import { timeSetup } from "../../guest-machine/setup.ts";
import type { Reservation } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import { deleteSnapshot, registerSnapshot, type SnapshotFacts } from "../../ledger/snapshots.ts";
import { type BuildJob, noteBuildPossession } from "../../ledger/template-builds.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Vm } from "../../machine/driver.ts";
import { newSnapshotPlace, removeSnapshot, type SnapshotPlace } from "../../machine/snapshot-files.ts";
import type { Metrics } from "../../metrics.ts";
import { Scope } from "../../scope.ts";
import type { MachineShape, SpanName } from "../../types.ts";
import type { ImageStore } from "../images/store.ts";
import { openAgentIn } from "../machine/machine.ts";
import { settle } from "../machine/warm-up.ts";
import type { UploadCache } from "../uploads/cache.ts";
import { checkFreeDisk } from "./free-disk.ts";
import { type BuildGround, type BuildParent, layGround } from "./ground.ts";
import type { BuildContext, GuestBuild } from "./guest-command.ts";
import { type BuildLayers, type FoundLayer, isWorthSaving } from "./layers.ts";
import type { BuildLog } from "./log.ts";
import { type BuildMachineDependencies, type BuildStart, openBuildAgent, startBuildMachine } from "./machine.ts";
import type { BuildRemains } from "./remains.ts";
import { type BuildSpec, describeOrigin } from "./spec.ts";
import { startAndWait } from "./start-command.ts";
import { describeCachedSteps, runSteps } from "./steps.ts";

export interface MakingDependencies extends BuildMachineDependencies {
  readonly ledger: Ledger;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
  readonly uploads: UploadCache;
  readonly images: Pick<ImageStore, "prepare">;
  readonly layers: BuildLayers;
  readonly metrics: Pick<Metrics, "buildSteps" | "buildCacheBytes">;
  readonly remains: BuildRemains;
  readonly reach: ReachStep;
  /** The file in a guest that names its template and build. */
  readonly markerPath: string;
  /** @throws DomainError `capacity_exhausted` */
  readonly reserve: (buildId: string, shape: MachineShape) => Reservation;
  /** @throws DomainError `disk_pressure` while there is not enough free disk for `work`. */
  readonly admitDisk: (what: string, work?: "save") => Promise<void>;
  readonly recordSample: (span: SpanName, durationMs: number) => void;
}

export interface BuildPlan {
  readonly job: BuildJob;
  readonly spec: BuildSpec;
  readonly parent: BuildParent;
  /** As in `BuildTerms`. */
  readonly forcedFrom: number;
}

export interface MadeSnapshot {
  readonly facts: SnapshotFacts;
  readonly defaults: BuildContext;
  readonly ground: BuildGround;
}

/** One build under way. Its machine and reservation go when `scope` closes. */
interface BuildWork {
  readonly plan: BuildPlan;
  readonly ground: BuildGround;
  /** Of the layers: before the first step, and after each. */
  readonly keys: readonly string[];
  readonly log: BuildLog;
  readonly signal: AbortSignal;
  readonly scope: Scope;
  vm: Vm | undefined;
  /** What belongs to the agent that is open. */
  agentScope: Scope;
}

export class BuildMaking {
  readonly #deps: MakingDependencies;
  /** Snapshots of layers that machines are being restored from. */
  readonly layersInUse = new Set<string>();

  constructor(deps: MakingDependencies) {
    this.#deps = deps;
  }

  /**
   * Makes the snapshot. When this returns or throws, the machine and its reservation are gone.
   * @throws DomainError as the steps, the image and the engine; the signal's reason
   */
  async make(plan: BuildPlan, place: SnapshotPlace, log: BuildLog, signal: AbortSignal): Promise<MadeSnapshot> {
    const { images, layers, metrics, remains, reserve, reach } = this.#deps;
    const { job, spec, parent, forcedFrom } = plan;
    await using scope = new Scope();
    log.beginStep("base");
    const origin = `[base] ${describeOrigin(spec.from)}`;
    const reserveShape = (shape: MachineShape) => reserve(job.id, shape);
    const ground = await layGround({ images, log, job, reserve: reserveShape }, parent, signal);
    const { reservation } = ground;
    const keys = layers.keysOf(ground, spec.steps);
    const work: BuildWork = { plan, ground, keys, log, signal, scope, vm: undefined, agentScope: new Scope() };
    scope.defer(() => remains.endMachine(job, async () => work.vm?.terminate(), reservation.id));
    scope.defer(() => work.agentScope.close());
    reach("build.reserved");
    const found = await layers.find(keys, forcedFrom);
    log.add("info", `${found ? "CACHED " : ""}${origin} [${keys[0]}]`);
    const build = await this.#begin(work, found);
    const done = found?.after ?? 0;
    describeCachedSteps(log, spec.steps.slice(0, done), spec.steps.length, keys);
    metrics.buildSteps.inc({ result: "cached" }, done);
    const progress = { done, total: spec.steps.length, keys, context: found?.layer.context ?? ground.defaults };
    const ran = await runSteps(build, spec.steps.slice(done), progress, {
      archiveOf: (hash) => this.#deps.uploads.pathOf(hash),
      afterStep: (running, step, key, context) => {
        metrics.buildSteps.inc({ result: "run" });
        return isWorthSaving(step) && layers.isPossible ? this.#saveLayer(work, running, key, context) : running;
      },
    });
    const facts = await this.#finish(work, ran, place);
    return { facts, defaults: ran.context, ground };
  }

  /** Starts the machine of a build and opens its agent. */
  async #begin(work: BuildWork, found: FoundLayer | undefined): Promise<GuestBuild> {
    const { layers } = this.#deps;
    const { ground, log } = work;
    const { shape } = ground.start;
    if (found) {
      const { folder, snapshotId } = found.layer;
      this.layersInUse.add(snapshotId);
      work.scope.defer(() => void this.layersInUse.delete(snapshotId));
      return this.#launch(work, { kind: "restore", snapshotFolder: folder, shape });
    }
    if (ground.start.kind === "boot") {
      const { vcpuCount, memoryMiB } = shape;
      log.add("info", `booting with ${vcpuCount} vCPUs and ${memoryMiB} MiB, because the snapshot has another shape`);
    }
    if (ground.start.kind === "restore" || !layers.isPossible) return this.#launch(work, ground.start);
    return this.#launch(work, await this.#bootBase(work));
  }

  /**
   * Boots a machine, and saves it as the layer before the first step. A machine that was restored from it is saved
   * quickly after each step, because it knows what it has changed.
   */
  async #bootBase(work: BuildWork): Promise<BuildStart> {
    const { ground, keys } = work;
    const build = await this.#launch(work, ground.start);
    const place = await this.#save(work, build, { key: keys[0] ?? "", context: ground.defaults, isLast: true });
    this.layersInUse.add(place.id);
    work.scope.defer(() => void this.layersInUse.delete(place.id));
    await work.vm?.terminate();
    work.vm = undefined;
    return { kind: "restore", snapshotFolder: place.folder, shape: ground.start.shape };
  }

  async #launch(work: BuildWork, start: BuildStart): Promise<GuestBuild> {
    const { ledger, reach } = this.#deps;
    const { plan, log, signal } = work;
    const { job } = plan;
    const vm = await startBuildMachine(this.#deps, start, signal);
    work.vm = vm;
    reach("build.launched");
    noteBuildPossession(ledger, job.id, { machine: vm.record });
    reach("build.recorded");
    const scope = await renewAgentScope(work);
    const agent = await openBuildAgent(this.#deps, scope, vm, start, job.templateId, signal);
    if (start.kind === "image") reach("image.booted");
    return { agent, log, signal };
  }

  /** Saves the machine after a step, and lets it go on. */
  async #saveLayer(work: BuildWork, build: GuestBuild, key: string, context: BuildContext): Promise<GuestBuild> {
    const { clock, log: logger } = this.#deps;
    const { vm, signal, log } = work;
    if (!vm) throw new Error("a step ran without a machine");
    await this.#save(work, build, { key, context, isLast: false }).finally(() => vm.resume());
    const scope = await renewAgentScope(work);
    const agent = await openAgentIn(scope, vm, { clock, log: logger, booted: false, signal });
    await agent.setup(timeSetup(clock));
    return { agent, log, signal };
  }

  async #save(
    { plan, vm, signal }: BuildWork,
    { agent }: GuestBuild,
    { key, context, isLast }: { readonly key: string; readonly context: BuildContext; readonly isLast: boolean },
  ): Promise<SnapshotPlace> {
    const { ledger, layers, snapshotsFolder, clock, admitDisk, reach } = this.#deps;
    if (!vm) throw new Error("a layer is saved without a machine");
    await admitDisk("save a step of a build", "save");
    const place = newSnapshotPlace(snapshotsFolder);
    layers.register(key, place);
    noteBuildPossession(ledger, plan.job.id, { snapshotId: place.id });
    try {
      const facts = await saveMachine({ vm, guest: agent }, { folder: place.folder, isLast, clock, signal });
      await layers.publish(key, place, facts, context);
    } catch (error) {
      deleteSnapshot(ledger, place.id);
      await removeSnapshot(place.folder);
      throw error;
    }
    reach("build.layered");
    return place;
  }

  /** The last part: start command, defaults, snapshot. */
  async #finish(
    { plan, vm, log, signal, keys }: BuildWork,
    build: GuestBuild & { readonly context: BuildContext },
    { id: snapshotId, folder }: SnapshotPlace,
  ): Promise<SnapshotFacts> {
    const { ledger, clock, recordSample, admitDisk, reach } = this.#deps;
    const { job, spec } = plan;
    if (!vm) throw new Error("a build ends without a machine");
    log.beginStep("finalize");
    log.add("info", `[finalize] Finalizing template build [${keys.at(-1)}]`);
    await startAndWait(build, spec, build.context, clock);
    await checkFreeDisk(build, job.minFreeDiskMiB);
    await this.#prepareSnapshot(build, job, build.context);
    reach("build.prepared");
    await admitDisk("save a template's snapshot", "save");
    registerSnapshot(ledger, { id: snapshotId, kind: "template", logicalId: job.templateId, folder, reason: null });
    noteBuildPossession(ledger, job.id, { snapshotId });
    reach("build.registered");
    return await saveMachine(
      { vm, guest: build.agent },
      {
        folder,
        clock,
        signal,
        reach: (step) => reach(`build.${step}`),
        recordSample: (durationMs) => recordSample("snapshot_save", durationMs),
      },
    );
  }

  /** Puts the template's defaults into the guest's memory: the agent keeps user and folder over every restore. */
  async #prepareSnapshot({ agent, signal }: GuestBuild, job: BuildJob, { user, workdir }: BuildContext): Promise<void> {
    const facts = `ENV_ID=${job.templateId}\nTEMPLATE_ID=${job.templateId}\nBUILD_ID=${job.id}\n`;
    await agent.setup({
      defaultUser: user,
      defaultCwd: workdir,
      files: [{ path: this.#deps.markerPath, content: facts, mode: 0o644 }],
    });
    const { clock, driver } = this.#deps;
    await settle(agent, job.templateId, { clock, signal, restMs: driver.info.restMs });
  }
}

/** The agent that was open is closed, with what watches over its machine. */
async function renewAgentScope(work: BuildWork): Promise<Scope> {
  await work.agentScope.close();
  work.agentScope = new Scope();
  return work.agentScope;
}
