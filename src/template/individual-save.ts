/**
 * A template prepared once more, as a machine of its own: its disk is booted, its start command runs until it is ready,
 * and it is saved. For engines of which one save cannot be several machines.
 */
import { randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import { DomainError } from "../errors.ts";
import type { Ledger } from "../ledger/open.ts";
import type { SnapshotFacts } from "../ledger/snapshots.ts";
import { findBuildSpec } from "../ledger/template-builds.ts";
import type { ResolvedTemplate } from "../ledger/templates.ts";
import type { Logger } from "../log.ts";
import { newSessionId, type Vm, type VmDriver } from "../machine/driver.ts";
import { readSnapshot } from "../machine/snapshot-files.ts";
import { Scope } from "../scope.ts";
import type { GuestAssets } from "./assets.ts";
import { openBootedAgent } from "./booted-agent.ts";
import { BuildLog } from "./build-log.ts";
import { baseAlias } from "./build-machine.ts";
import { parseStoredSpec } from "./freshness.ts";
import { factsOf } from "./snapshot-facts.ts";
import { startAndWait } from "./start-command.ts";
import { settle, warmUp } from "./warm-up.ts";

export interface IndividualSaveDependencies {
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly assets: GuestAssets;
}

/** What is run in it before it is saved; undefined for what cannot be prepared again: the moment of a sandbox. */
export function findPreparation(ledger: Ledger, { template, buildId, snapshot }: ResolvedTemplate) {
  if (snapshot.sandboxId !== null) return undefined;
  if (template.aliases.includes(baseAlias)) return { kind: "base" } as const;
  const spec = findBuildSpec(ledger, buildId);
  return spec === undefined ? undefined : ({ kind: "built", spec: parseStoredSpec(spec) } as const);
}

/**
 * Boots, prepares and saves into `folder`, which must not exist.
 * @param onLaunched told of the machine as soon as there is one: its end is the caller's, failure or not
 * @throws DomainError `not_ready` while the host saves nothing; `failed_precondition`: its start command fails;
 *   `machine_failed`; the signal's reason
 */
export async function makeIndividualSave(
  { ledger, driver, clock, log, assets }: IndividualSaveDependencies,
  resolved: ResolvedTemplate,
  folder: string,
  signal: AbortSignal,
  onLaunched: (vm: Vm) => void,
): Promise<SnapshotFacts> {
  await using scope = new Scope();
  const preparation = findPreparation(ledger, resolved);
  if (!preparation) throw new DomainError("unsupported", `template ${resolved.template.id} cannot be prepared again`);
  const { template, snapshot, defaults } = resolved;
  const source = { folder: snapshot.folder, manifest: await readSnapshot(snapshot.folder) };
  const order = { sessionId: newSessionId(), shape: template.shape, ...assets, snapshot: source };
  const vm = await driver.boot(order, signal);
  onLaunched(vm);
  const agent = await openBootedAgent(vm, scope, log, signal);
  await agent.setup({
    timeNs: BigInt(clock.nowMs()) * 1_000_000n,
    entropy: randomBytes(64),
    hostname: template.aliases[0] ?? template.id,
    envs: { E2B_SANDBOX: "true", E2B_TEMPLATE_ID: template.id },
    defaultUser: defaults.user,
    defaultCwd: defaults.workdir,
  });
  if (preparation.kind === "base") await warmUp(agent);
  else await startAndWait({ agent, log: new BuildLog(clock), signal }, preparation.spec, defaults, clock);
  await settle(agent, template.id, clock, signal);
  const { bootId } = agent;
  agent.close();
  signal.throwIfAborted();
  await vm.pause();
  return factsOf(await vm.saveSnapshot(folder, { bootId, isLast: true }));
}
