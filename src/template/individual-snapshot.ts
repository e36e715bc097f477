/**
 * The individual snapshot: a template prepared once more, in a machine of its own. Its disk is booted, its start
 * command runs until the machine is ready, and the machine is saved. The shelf needs it where one snapshot starts one
 * machine only.
 */
import type { Clock } from "../clock.ts";
import { saveMachine } from "../guest-machine/save.ts";
import { setupOf, templateEnvironment } from "../guest-machine/setup.ts";
import type { Ledger } from "../ledger/open.ts";
import type { SnapshotFacts } from "../ledger/snapshots.ts";
import { findBuildSpec } from "../ledger/template-builds.ts";
import type { ResolvedTemplate } from "../ledger/templates.ts";
import type { Logger } from "../log.ts";
import { newSessionId, type VmDriver } from "../machine/driver.ts";
import { readSnapshot } from "../machine/snapshot-files.ts";
import { Scope } from "../scope.ts";
import type { GuestAssets } from "./assets/guest-assets.ts";
import { baseAlias } from "./base/template.ts";
import { BuildLog } from "./build/log.ts";
import type { BuildSpec } from "./build/spec.ts";
import { startAndWait } from "./build/start-command.ts";
import { parseStoredSpec } from "./build/stored-spec.ts";
import { launchIn, openAgentIn } from "./machine/machine.ts";
import { settle, warmUp } from "./machine/warm-up.ts";

export interface IndividualSnapshotDependencies {
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly assets: GuestAssets;
}

/** The work in a machine before it is saved. */
export type Preparation = { readonly kind: "base" } | { readonly kind: "built"; readonly spec: BuildSpec };

/** How a template is prepared again; undefined for a snapshot of a sandbox, which was one moment only. */
export function findPreparation(
  ledger: Ledger,
  { template, buildId, snapshot }: ResolvedTemplate,
): Preparation | undefined {
  if (snapshot.sandboxId !== null) return undefined;
  if (template.aliases.includes(baseAlias)) return { kind: "base" };
  const spec = findBuildSpec(ledger, buildId);
  return spec === undefined ? undefined : { kind: "built", spec: parseStoredSpec(spec) };
}

export interface IndividualSnapshotOrder {
  readonly resolved: ResolvedTemplate;
  readonly preparation: Preparation;
  /** The folder of the snapshot, which must not exist. */
  readonly folder: string;
  /** As in `launchIn`: ends the machine, which is always needed. */
  readonly end: (destroy: () => Promise<void>) => void;
}

/**
 * Boots a template's disk, prepares it and saves the machine.
 * @throws DomainError `not_ready` while the host saves nothing; `failed_precondition` when the start command fails;
 *   `machine_failed`; the signal's reason. `end` was called then, too.
 */
export async function makeIndividualSnapshot(
  { driver, clock, log, assets }: IndividualSnapshotDependencies,
  { resolved, preparation, folder, end }: IndividualSnapshotOrder,
  signal: AbortSignal,
): Promise<SnapshotFacts> {
  await using scope = new Scope();
  const { template, snapshot, defaults } = resolved;
  const boot = async () => {
    const source = { folder: snapshot.folder, manifest: await readSnapshot(snapshot.folder) };
    return driver.boot({ sessionId: newSessionId(), shape: template.shape, ...assets, snapshot: source }, signal);
  };
  const vm = await launchIn(scope, boot, end);
  const agent = await openAgentIn(scope, vm, { clock, log, booted: true, signal });
  const profile = {
    hostname: template.aliases[0] ?? template.id,
    envs: templateEnvironment(template.id),
    defaultUser: defaults.user,
    defaultCwd: defaults.workdir,
  };
  await agent.setup(setupOf(profile, clock));
  if (preparation.kind === "base") await warmUp(agent);
  else await startAndWait({ agent, log: new BuildLog(clock), signal }, preparation.spec, defaults, clock);
  await settle(agent, template.id, { clock, signal, restMs: driver.info.restMs });
  // Awaited, so that the machine is saved before the scope ends it.
  return await saveMachine({ vm, guest: agent }, { folder, isLast: true, clock, signal });
}
