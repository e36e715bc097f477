/**
 * The seed's RuntimeSnapshotRestore: integrity → launch → readiness probe, with a sample of each, and everything given
 * back when any step fails. (Disk guard and capacity come before it, in the create path.)
 */
import { randomUUID } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { GuestAgent } from "../guest/agent.ts";
import type { Logger } from "../log.ts";
import type { MachineRecord, Vm, VmDriver } from "../machine/driver.ts";
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

export interface RestoreOptions {
  /** Whom the samples are of; null: nobody's yet. */
  readonly sandboxId: string | null;
  /** Told what runs as soon as something does: write it down, so that a later daemon finds it after a crash. */
  readonly onLaunched?: (machine: MachineRecord) => void;
  /** Gives up. */
  readonly signal?: AbortSignal;
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
  { sandboxId, onLaunched, signal }: RestoreOptions,
): Promise<RestoredMachine> {
  const { driver, clock, log, samples } = deps;
  const restoreStartedMs = clock.monotonicMs();
  const manifest = await readSnapshot(snapshotFolder);
  const vm = await driver.restore({ sessionId, snapshotFolder, manifest }, signal);
  try {
    onLaunched?.(vm.record);
    const restoredMs = clock.monotonicMs();
    samples.record("warm_snapshot_restore", restoredMs - restoreStartedMs, sandboxId);
    const agent = await probeReadiness(vm, identity, clock, log, signal);
    samples.record("ready_probe", clock.monotonicMs() - restoredMs, sandboxId);
    return { vm, agent, restoreStartedMs };
  } catch (error) {
    await vm.terminate();
    throw error;
  }
}

/** New for every machine, never reused; short, because it is part of socket paths. */
export function newSessionId(): string {
  return randomUUID().replaceAll("-", "");
}
