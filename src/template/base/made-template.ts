/**
 * A template that the daemon makes by itself: booted once from a root disk, warmed up, saved. Every sandbox of it is
 * restored from that snapshot. When an ingredient changed, the template is made anew, and the old snapshot stays for
 * sandboxes that need it.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import type { Clock } from "../../clock.ts";
import { isDomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { saveMachine } from "../../guest-machine/save.ts";
import { setupOf } from "../../guest-machine/setup.ts";
import { type CapacityBudgets, release, reserve } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import {
  deleteSnapshot,
  markSnapshotReady,
  quarantineSnapshot,
  registerSnapshot,
  type SnapshotFacts,
} from "../../ledger/snapshots.ts";
import { defaultTag, findTemplate, insertTemplate, publishBuild, resolveTemplate } from "../../ledger/templates.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Logger } from "../../log.ts";
import { emulatedClass, newSessionId, type VmDriver } from "../../machine/driver.ts";
import { newSnapshotPlace, readSnapshot, removeSnapshot } from "../../machine/snapshot-files.ts";
import { Scope } from "../../scope.ts";
import type { MachineShape, SpanName } from "../../types.ts";
import type { GuestAssets } from "../assets/guest-assets.ts";
import { launchIn, openAgentIn } from "../machine/machine.ts";
import { runCommand, settle } from "../machine/warm-up.ts";
import { trustInGuest } from "../trust/guest-trust.ts";
import { fingerprintOf, type GuestTrust } from "../trust/host-trust.ts";

/** A template of the daemon's own. */
export interface MadeTemplate {
  readonly alias: string;
  /** For people: "the base template". */
  readonly title: string;
  /** To be raised when the boot, or the work in the machine before its snapshot, changes. */
  readonly recipeVersion: number;
  readonly shape: MachineShape;
  /**
   * The work in the booted machine, once it trusts what it is to trust.
   * @throws DomainError `machine_failed` naming what failed
   */
  readonly warmUp: (agent: GuestAgent, isTrustChanged: boolean) => Promise<void>;
}

export interface TemplateDependencies {
  readonly ledger: Ledger;
  readonly budgets: CapacityBudgets;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly reach: ReachStep;
  readonly trust: GuestTrust;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
  readonly newTemplateId: () => string;
  readonly recordSample: (span: SpanName, durationMs: number) => void;
  /** @throws DomainError `disk_pressure` while there is not enough free disk for `work`. */
  readonly admitDisk: (work: string) => Promise<void>;
}

/**
 * Makes sure that the template exists and is made from these assets by this engine.
 * @param progress called with the name of every step that takes more than a moment, for people
 * @throws DomainError `machine_failed` when the guest does not boot or a warm-up command fails; `capacity_exhausted`,
 *   `disk_pressure`; the signal's reason
 */
export async function ensureMadeTemplate(
  deps: TemplateDependencies,
  made: MadeTemplate,
  assets: GuestAssets,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { alias, title, shape } = made;
  const recipeTag = tagOfRecipe(deps, made, assets);
  if (await isCurrent(deps, made, recipeTag)) return;
  await deps.admitDisk(`make ${title}`);
  const startedMs = deps.clock.monotonicMs();
  const { id: snapshotId, folder } = newSnapshotPlace(deps.snapshotsFolder);
  const template = findTemplate(deps.ledger, alias);
  const templateId = template?.id ?? deps.newTemplateId();
  const reservation = deps.ledger.write(() => {
    registerSnapshot(deps.ledger, { id: snapshotId, kind: "template", logicalId: templateId, folder, reason: null });
    return reserve(deps.ledger, { kind: "active", shape, budgets: deps.budgets });
  });
  try {
    const facts = await bootAndSnapshot(
      deps,
      made,
      assets,
      { folder, templateId, reservationId: reservation.id },
      progress,
      signal,
    );
    deps.ledger.writeDurably(() => {
      markSnapshotReady(deps.ledger, snapshotId, facts);
      if (!template) insertTemplate(deps.ledger, { id: templateId, aliases: [alias], shape, public: true });
      const tags = [defaultTag, recipeTag];
      publishBuild(deps.ledger, { id: randomUUID(), templateId, snapshotId, shape, tags });
    });
  } catch (error) {
    deleteSnapshot(deps.ledger, snapshotId);
    await removeSnapshot(folder);
    throw error;
  }
  deps.recordSample("cold_template_build", deps.clock.monotonicMs() - startedMs);
}

/** Whether the default build of the template came from this recipe, and its files are there. */
async function isCurrent(
  { ledger, log, driver }: TemplateDependencies,
  { alias, title }: MadeTemplate,
  recipeTag: string,
): Promise<boolean> {
  try {
    const current = resolveTemplate(ledger, alias);
    const fresh = resolveTemplate(ledger, alias, recipeTag);
    if (current.buildId !== fresh.buildId || current.snapshot.state !== "ready") return false;
    try {
      const { files } = await readSnapshot(current.snapshot.folder);
      // A template that was made while the host saved no memory is made again once it does.
      return files.memory !== undefined || !driver.info.abilities.memorySnapshot.supported;
    } catch (error) {
      log.warn({ err: error, snapshotID: current.snapshot.id }, `the snapshot of ${title} is damaged`);
      quarantineSnapshot(ledger, current.snapshot.id, String(error));
      return false;
    }
  } catch (error) {
    if (isDomainError(error, "not_found")) return false;
    throw error;
  }
}

/** A tag for the ingredients of the template: two equal tags mean two equal templates. */
function tagOfRecipe(
  { driver, trust }: TemplateDependencies,
  { recipeVersion, shape }: MadeTemplate,
  assets: GuestAssets,
): string {
  const { engine, version, acceleration } = driver.info;
  // The emulated processor is the same everywhere, and was no ingredient in earlier versions.
  const cpuClass = driver.info.cpuClass === emulatedClass ? undefined : driver.info.cpuClass;
  // Nothing that is trusted beside is no ingredient either.
  const trusted = fingerprintOf(trust) || undefined;
  const ingredients = { recipeVersion, engine, version, acceleration, shape, assets, cpuClass, trusted };
  return `recipe-${createHash("sha256").update(JSON.stringify(ingredients)).digest("hex").slice(0, 16)}`;
}

async function bootAndSnapshot(
  { ledger, driver, clock, log, reach, trust, recordSample }: TemplateDependencies,
  made: MadeTemplate,
  assets: GuestAssets,
  { folder, templateId, reservationId }: Readonly<Record<"folder" | "templateId" | "reservationId", string>>,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<SnapshotFacts> {
  const { alias, title, shape } = made;
  await using scope = new Scope();
  progress(`boot ${title}`);
  const vm = await launchIn(
    scope,
    () => driver.boot({ sessionId: newSessionId(), shape, ...assets }, signal),
    async (destroy) => {
      await destroy();
      release(ledger, reservationId);
    },
  );
  reach("made.launched");
  const agent = await openAgentIn(scope, vm, { clock, log, booted: true, signal });
  // A file in memory: a sandbox that has it was restored from memory, not booted.
  const nonce = { path: "/run/firkin/template-nonce", content: randomBytes(16).toString("hex"), mode: 0o644 };
  await agent.setup(setupOf({ hostname: alias, envs: {}, defaultUser: "user", files: [nonce] }, clock));
  await trustInGuest(agent, trust, (command) => runCommand(agent, command));
  progress(`warm ${title}`);
  await made.warmUp(agent, fingerprintOf(trust) !== "");
  reach("made.warmed");
  await settle(agent, templateId, { clock, signal, restMs: driver.info.restMs });
  progress(`snapshot ${title}`);
  const { memorySnapshot } = driver.info.abilities;
  const request = {
    folder,
    clock,
    signal,
    reach: (step: "stopped" | "saved") => reach(`made.${step}`),
    recordSample: (durationMs: number) => recordSample("snapshot_save", durationMs),
  };
  // Awaited, so that the machine is saved before the scope ends it.
  try {
    return await saveMachine({ vm, guest: agent }, { ...request, memory: memorySnapshot.supported });
  } catch (error) {
    if (!memorySnapshot.supported || !isDomainError(error, "not_ready")) throw error;
    log.warn({ reason: error.message }, `the host saves no memory now: sandboxes of ${title} are booted`);
    return await saveMachine({ vm, guest: { bootId: agent.bootId } }, { ...request, memory: false });
  }
}
