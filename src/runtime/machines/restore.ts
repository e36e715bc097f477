/**
 * The seed's RuntimeSnapshotRestore: files → launch → readiness probe, with a sample of each. Before it, whoever wants a
 * session asks, in this order, whether the catalogue has the snapshot as whole, the disk guard, and admission; and gives
 * everything back when a step fails. A snapshot without memory is booted from.
 */
import { isDomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import type { ReachStep, RestoreScenario } from "../../lifecycle-steps.ts";
import type { Vm, VmDriver } from "../../machine/driver.ts";
import type { GuestAssets } from "../../template/assets.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";
import { probeReadiness, type SandboxIdentity } from "./identity.ts";
import { type IntegrityDependencies, openSnapshot } from "./integrity.ts";

export interface RestoreDependencies extends IntegrityDependencies {
  readonly driver: VmDriver;
  readonly samples: LifecycleSamples;
  /** What is booted when there is no memory to restore. */
  readonly assets: GuestAssets;
  readonly reach: ReachStep;
}

export interface RestoreOrder {
  readonly snapshotFolder: string;
  readonly sessionId: string;
  readonly identity: SandboxIdentity;
  readonly internetAccess: boolean;
  /** Boots from the disk even if there is a memory. */
  readonly withoutMemory?: boolean;
  /** Boots from the disk when the memory cannot be restored at the moment: nothing that matters runs in it. */
  readonly mayBoot?: boolean;
}

export interface RestoredMachine {
  readonly vm: Vm;
  readonly agent: GuestAgent;
  /** Monotonic time at which the restore began. */
  readonly restoreStartedMs: number;
}

export interface RestoreOptions {
  /** Whom the samples are of; null: nobody's yet. */
  readonly sandboxId: string | null;
  readonly scenario: RestoreScenario;
  /** Told of the VM as soon as there is one: from then on its end is the caller's, failure or not. */
  readonly onLaunched: (vm: Vm) => void;
  /** Gives up. */
  readonly signal?: AbortSignal;
}

/**
 * Restores a snapshot into a machine that is ready for its first command.
 * @throws DomainError `failed_precondition` naming a snapshot that is damaged, and is set aside; `machine_failed` when the
 *   engine fails or the agent does not answer
 */
export async function restoreMachine(
  deps: RestoreDependencies,
  { snapshotFolder, sessionId, identity, internetAccess, withoutMemory, mayBoot }: RestoreOrder,
  { sandboxId, scenario, onLaunched, signal }: RestoreOptions,
): Promise<RestoredMachine> {
  const { driver, clock, log, samples, reach, assets } = deps;
  const restoreStartedMs = clock.monotonicMs();
  const manifest = await openSnapshot(deps, snapshotFolder);
  let boots = withoutMemory || !manifest.files.memory;
  const { shape } = manifest;
  const snapshot = { folder: snapshotFolder, manifest };
  const boot = () => driver.boot({ sessionId, shape, ...assets, snapshot, internetAccess }, signal);
  const restore = () =>
    driver.restore({ sessionId, snapshotFolder, manifest, internetAccess }, signal).catch((error: unknown) => {
      if (!mayBoot || !isDomainError(error, "not_ready")) throw error;
      log.warn({ sandboxID: sandboxId, reason: error.message }, "no restore now: booting instead");
      boots = true;
      return boot();
    });
  const vm = await (boots ? boot() : restore());
  reach(`${scenario}.launched`);
  onLaunched(vm);
  reach(`${scenario}.recorded`);
  const restoredMs = clock.monotonicMs();
  samples.record(boots ? "cold_boot" : "warm_snapshot_restore", scenario, restoredMs - restoreStartedMs, sandboxId);
  const agent = await probeReadiness(vm, identity, { clock, log, booted: boots, ...(signal && { signal }) });
  samples.record("ready_probe", scenario, clock.monotonicMs() - restoredMs, sandboxId);
  reach(`${scenario}.probed`);
  return { vm, agent, restoreStartedMs };
}
