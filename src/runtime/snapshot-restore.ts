/**
 * The seed's RuntimeSnapshotRestore: integrity → launch → readiness probe, with a sample of each, and everything given
 * back when any step fails. (Disk guard and capacity come before it, in the create path.)
 */
import type { Clock } from "../clock.ts";
import type { GuestAgent } from "../guest/agent.ts";
import type { Logger } from "../log.ts";
import type { Vm, VmDriver } from "../machine/driver.ts";
import { readSnapshot } from "../machine/snapshot-files.ts";
import type { LifecycleSamples } from "./lifecycle-samples.ts";
import { probeReadiness, type SandboxIdentity } from "./readiness-probe.ts";

export interface RestoreDependencies {
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly samples: LifecycleSamples;
}

export interface RestoredMachine {
  readonly vm: Vm;
  readonly agent: GuestAgent;
  /** Monotonic time at which the restore began. */
  readonly restoreStartedMs: number;
}

/**
 * Restores the snapshot in `snapshotFolder` into a machine that is ready for its first command.
 * @throws DomainError `machine_failed` when a file is damaged or missing, the engine fails or the agent does not answer;
 *   no machine is left then.
 */
export async function restoreMachine(
  deps: RestoreDependencies,
  snapshotFolder: string,
  sessionId: string,
  identity: SandboxIdentity,
): Promise<RestoredMachine> {
  const { driver, clock, log, samples } = deps;
  const restoreStartedMs = clock.monotonicMs();
  const manifest = await readSnapshot(snapshotFolder);
  const vm = await driver.restore({ sessionId, snapshotFolder, manifest });
  try {
    const restoredMs = clock.monotonicMs();
    samples.record("warm_snapshot_restore", restoredMs - restoreStartedMs, identity.sandboxId);
    const agent = await probeReadiness(vm, identity, clock, log);
    samples.record("ready_probe", clock.monotonicMs() - restoredMs, identity.sandboxId);
    return { vm, agent, restoreStartedMs };
  } catch (error) {
    await vm.terminate();
    throw error;
  }
}
