/**
 * The restore of a machine from a snapshot: check the files, launch, probe, with a latency sample of each. Before it, a
 * caller asks, in this order, whether the snapshot is ready, the disk guard, and admission. A snapshot without memory
 * is booted from its disk. This room takes machines from a snapshot to their end and may call no other room.
 */
import { isDomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import type { ReachStep, RestoreScenario } from "../../lifecycle-steps.ts";
import type { Vm, VmDriver } from "../../machine/driver.ts";
import type { GuestAssets } from "../../template/assets/guest-assets.ts";
import type { MachineRecord } from "../../types.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";
import { probeReadiness, type SandboxIdentity } from "./identity.ts";
import { type IntegrityDependencies, openSnapshot } from "./integrity.ts";

export interface RestoreDependencies extends IntegrityDependencies {
  readonly driver: VmDriver;
  readonly samples: LifecycleSamples;
  /** The assets that are booted when there is no memory to restore. */
  readonly assets: GuestAssets;
  readonly reach: ReachStep;
}

export interface RestoreOrder {
  readonly snapshotFolder: string;
  readonly sessionId: string;
  readonly identity: SandboxIdentity;
  readonly internetAccess: boolean;
  /** Boots from the disk even if the snapshot has a memory. */
  readonly withoutMemory?: boolean;
  /** Boots from the disk when the host cannot restore the memory now, because nothing that matters runs in it. */
  readonly mayBoot?: boolean;
}

/**
 * Called once for a machine that was not taken, to end it for good.
 * @param destroy ends the machine and removes its files, if a machine was launched; may be called until it succeeds
 */
export type Abandon = (destroy: () => Promise<void>) => void | Promise<void>;

/** A machine that answers, with its agent. Its disposal abandons it unless it was taken. */
export class HeldMachine implements AsyncDisposable {
  readonly vm: Vm;
  readonly agent: GuestAgent;
  /** Monotonic time at which the restore began; undefined for a machine that was restored ahead of demand. */
  readonly restoreStartedMs: number | undefined;
  readonly #abandon: Abandon;
  #isTaken = false;

  constructor(vm: Vm, agent: GuestAgent, restoreStartedMs: number | undefined, abandon: Abandon) {
    this.vm = vm;
    this.agent = agent;
    this.restoreStartedMs = restoreStartedMs;
    this.#abandon = abandon;
  }

  /** Makes the end of the machine the caller's. */
  take(): void {
    this.#isTaken = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isTaken) return;
    this.agent.close();
    await this.#abandon(() => this.vm.terminate());
  }
}

export interface RestoreOptions {
  /** The sandbox that the latency samples belong to; null for a machine that no sandbox has yet. */
  readonly sandboxId: string | null;
  readonly scenario: RestoreScenario;
  /** Writes the machine down as soon as it is launched, so that a later daemon finds it after a crash. */
  readonly writeDown: (record: MachineRecord) => void;
  /** Called before `restoreMachine` throws, and by the disposal of a machine that was not taken. */
  readonly abandon: Abandon;
  /** Gives the restore up. */
  readonly signal?: AbortSignal;
}

/**
 * Restores a snapshot into a machine that is ready for its first command.
 * @throws DomainError `failed_precondition` naming a snapshot that is damaged, and is set aside; `machine_failed` when
 *   the engine fails or the agent does not answer. The machine is abandoned then.
 */
export async function restoreMachine(
  deps: RestoreDependencies,
  order: RestoreOrder,
  options: RestoreOptions,
): Promise<HeldMachine> {
  const { clock, log, samples, reach } = deps;
  const { sandboxId, scenario, writeDown, abandon, signal } = options;
  const startedMs = clock.monotonicMs();
  let launched: Vm | undefined;
  try {
    const { vm, booted } = await launch(deps, order, options);
    launched = vm;
    reach(`${scenario}.launched`);
    writeDown(vm.record);
    reach(`${scenario}.recorded`);
    const launchedMs = clock.monotonicMs();
    samples.record(booted ? "cold_boot" : "warm_snapshot_restore", scenario, launchedMs - startedMs, sandboxId);
    const agent = await probeReadiness(vm, order.identity, { clock, log, booted, ...(signal && { signal }) });
    samples.record("ready_probe", scenario, clock.monotonicMs() - launchedMs, sandboxId);
    reach(`${scenario}.probed`);
    return new HeldMachine(vm, agent, startedMs, abandon);
  } catch (error) {
    await abandon(async () => launched?.terminate());
    throw error;
  }
}

async function launch(
  deps: RestoreDependencies,
  { snapshotFolder, sessionId, internetAccess, withoutMemory, mayBoot }: RestoreOrder,
  { sandboxId, signal }: RestoreOptions,
): Promise<{ readonly vm: Vm; readonly booted: boolean }> {
  const { driver, log, assets } = deps;
  const manifest = await openSnapshot(deps, snapshotFolder);
  const boot = async () => {
    const snapshot = { folder: snapshotFolder, manifest };
    const request = { sessionId, shape: manifest.shape, ...assets, snapshot, internetAccess };
    return { vm: await driver.boot(request, signal), booted: true };
  };
  if (withoutMemory || !manifest.files.memory) return boot();
  try {
    const request = { sessionId, snapshotFolder, manifest, internetAccess };
    return { vm: await driver.restore(request, signal), booted: false };
  } catch (error) {
    if (!mayBoot || !isDomainError(error, "not_ready")) throw error;
    log.warn({ sandboxID: sandboxId, reason: error.message }, "the host restores nothing now: booting instead");
    return boot();
  }
}
