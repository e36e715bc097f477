/**
 * The template `base`: booted once, warmed up, saved. Every sandbox of it is restored from that snapshot. When an
 * ingredient changed, the template is made anew, and the old snapshot stays for sandboxes that need it. This room may
 * call assets, machine and trust.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import type { Clock } from "../../clock.ts";
import { isDomainError } from "../../errors.ts";
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
import type { Logger } from "../../log.ts";
import { emulatedClass, newSessionId, type VmDriver } from "../../machine/driver.ts";
import { newSnapshotPlace, readSnapshot, removeSnapshot } from "../../machine/snapshot-files.ts";
import { Scope } from "../../scope.ts";
import type { MachineShape, SpanName } from "../../types.ts";
import type { GuestAssets } from "../assets/guest-assets.ts";
import { launchIn, openAgentIn } from "../machine/machine.ts";
import { runCommand, settle, warmUp } from "../machine/warm-up.ts";
import { trustInGuest } from "../trust/guest-trust.ts";
import { fingerprintOf, type GuestTrust } from "../trust/host-trust.ts";

/** To be raised when the boot of `base`, or the work in it before its snapshot, changes. */
const recipeVersion = 6;
export const baseAlias = "base";
const shape: MachineShape = { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 };

export interface TemplateDependencies {
  readonly ledger: Ledger;
  readonly budgets: CapacityBudgets;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trust: GuestTrust;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
  readonly newTemplateId: () => string;
  readonly recordSample: (span: SpanName, durationMs: number) => void;
  /** @throws DomainError `disk_pressure` while there is not enough free disk for `work`. */
  readonly admitDisk: (work: string) => Promise<void>;
}

/**
 * Makes sure that `base` exists and is made from these assets by this engine.
 * @param progress called with the name of every step that takes more than a moment, for people
 * @throws DomainError `machine_failed` when the guest does not boot or a warm-up command fails; `capacity_exhausted`,
 *   `disk_pressure`; the signal's reason
 */
export async function ensureBaseTemplate(
  deps: TemplateDependencies,
  assets: GuestAssets,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const recipeTag = tagOfRecipe(deps, assets);
  if (await isCurrent(deps, recipeTag)) return;
  await deps.admitDisk("make the base template");
  const startedMs = deps.clock.monotonicMs();
  const { id: snapshotId, folder } = newSnapshotPlace(deps.snapshotsFolder);
  const template = findTemplate(deps.ledger, baseAlias);
  const templateId = template?.id ?? deps.newTemplateId();
  const reservation = deps.ledger.write(() => {
    registerSnapshot(deps.ledger, { id: snapshotId, kind: "template", logicalId: templateId, folder, reason: null });
    return reserve(deps.ledger, { kind: "active", shape, budgets: deps.budgets });
  });
  try {
    const facts = await bootAndSnapshot(
      deps,
      assets,
      { folder, templateId, reservationId: reservation.id },
      progress,
      signal,
    );
    deps.ledger.writeDurably(() => {
      markSnapshotReady(deps.ledger, snapshotId, facts);
      if (!template) insertTemplate(deps.ledger, { id: templateId, aliases: [baseAlias], shape, public: true });
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

/** Whether the default build of `base` came from this recipe, and its files are there. */
async function isCurrent({ ledger, log, driver }: TemplateDependencies, recipeTag: string): Promise<boolean> {
  try {
    const current = resolveTemplate(ledger, baseAlias);
    const fresh = resolveTemplate(ledger, baseAlias, recipeTag);
    if (current.buildId !== fresh.buildId || current.snapshot.state !== "ready") return false;
    try {
      const { files } = await readSnapshot(current.snapshot.folder);
      // A template that was made while the host saved no memory is made again once it does.
      return files.memory !== undefined || !driver.info.abilities.memorySnapshot.supported;
    } catch (error) {
      log.warn({ err: error, snapshotID: current.snapshot.id }, "the snapshot of the base template is damaged");
      quarantineSnapshot(ledger, current.snapshot.id, String(error));
      return false;
    }
  } catch (error) {
    if (isDomainError(error, "not_found")) return false;
    throw error;
  }
}

/** A tag for the ingredients of the template: two equal tags mean two equal templates. */
function tagOfRecipe({ driver, trust }: TemplateDependencies, assets: GuestAssets): string {
  const { engine, version, acceleration } = driver.info;
  // The emulated processor is the same everywhere, and was no ingredient in earlier versions.
  const cpuClass = driver.info.cpuClass === emulatedClass ? undefined : driver.info.cpuClass;
  // Nothing that is trusted beside is no ingredient either.
  const trusted = fingerprintOf(trust) || undefined;
  const ingredients = { recipeVersion, engine, version, acceleration, shape, assets, cpuClass, trusted };
  return `recipe-${createHash("sha256").update(JSON.stringify(ingredients)).digest("hex").slice(0, 16)}`;
}

async function bootAndSnapshot(
  { ledger, driver, clock, log, trust, recordSample }: TemplateDependencies,
  assets: GuestAssets,
  { folder, templateId, reservationId }: Readonly<Record<"folder" | "templateId" | "reservationId", string>>,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<SnapshotFacts> {
  await using scope = new Scope();
  progress("boot the base template");
  const vm = await launchIn(
    scope,
    () => driver.boot({ sessionId: newSessionId(), shape, ...assets }, signal),
    async (destroy) => {
      await destroy();
      release(ledger, reservationId);
    },
  );
  const agent = await openAgentIn(scope, vm, { clock, log, booted: true, signal });
  // A file in memory: a sandbox that has it was restored from memory, not booted.
  const nonce = { path: "/run/firkin/template-nonce", content: randomBytes(16).toString("hex"), mode: 0o644 };
  await agent.setup(setupOf({ hostname: baseAlias, envs: {}, defaultUser: "user", files: [nonce] }, clock));
  await trustInGuest(agent, trust, (command) => runCommand(agent, command));
  progress("warm the base template");
  await warmUp(agent);
  await settle(agent, templateId, clock, signal);
  progress("snapshot the base template");
  const { memorySnapshot } = driver.info.abilities;
  const request = {
    folder,
    clock,
    signal,
    recordSample: (durationMs: number) => recordSample("snapshot_save", durationMs),
  };
  // Awaited, so that the machine is saved before the scope ends it.
  try {
    return await saveMachine({ vm, guest: agent }, { ...request, memory: memorySnapshot.supported });
  } catch (error) {
    if (!memorySnapshot.supported || !isDomainError(error, "not_ready")) throw error;
    log.warn({ reason: error.message }, "the host saves no memory now: sandboxes of the base template are booted");
    return await saveMachine({ vm, guest: { bootId: agent.bootId } }, { ...request, memory: false });
  }
}
