/**
 * The path of a create: template → disk guard → admission → warm checkout, else restore → readiness probe → shown.
 * Whatever fails undoes what was begun, and the capacity is released last.
 */
import { messageOf } from "../../errors.ts";
import type { CapacityBudgets } from "../../ledger/capacity.ts";
import { type Idempotency, recordIdempotencyKey } from "../../ledger/idempotency-keys.ts";
import type { Ledger } from "../../ledger/open.ts";
import { moveSandbox, setSandboxMachine } from "../../ledger/sandboxes.ts";
import { takeFromShelf } from "../../ledger/shelf.ts";
import { refuseUnreadySnapshot, type SnapshotRecord } from "../../ledger/snapshots.ts";
import { type ResolvedTemplate, resolveTemplate } from "../../ledger/templates.ts";
import type { RestoreScenario } from "../../lifecycle-steps.ts";
import { newSessionId } from "../../machine/driver.ts";
import type { Metrics } from "../../metrics.ts";
import { baseAlias } from "../../template/base/template.ts";
import type { SandboxRecord, SessionOrigin } from "../../types.ts";
import type { Admission } from "../capacity/admission.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";
import { discardContinuation } from "../machines/capture.ts";
import { giveIdentity, type SandboxIdentity } from "../machines/identity.ts";
import { HeldMachine, type RestoreDependencies, restoreMachine } from "../machines/restore.ts";
import type { UnfinishedWork } from "../machines/unfinished-work.ts";
import type { WarmMachine } from "../pool/warm-machine.ts";
import type { WarmPool } from "../pool/warm-pool.ts";
import type { CreateSandboxRequest, SandboxView } from "../runtime.ts";
import { admitSandbox } from "./admit.ts";
import type { SerialQueue } from "./serial-queue.ts";

export interface CreationDependencies extends RestoreDependencies {
  readonly ledger: Ledger;
  readonly metrics: Metrics;
  readonly disk: DiskPressureGuard;
  readonly terminator: UnfinishedWork;
  readonly budgets: CapacityBudgets;
  readonly admission: Admission;
  readonly warmPool: WarmPool;
  readonly newSandboxId: () => string;
}

/** A machine that is ready for its first command. */
export type ReadyMachine = Pick<HeldMachine, "vm" | "agent" | "restoreStartedMs"> & { readonly origin: SessionOrigin };

/** Makes a running sandbox visible. */
export type Attach = (record: SandboxRecord, machine: ReadyMachine) => SandboxView;

/** A warm machine that is told whose it is. */
interface Claimed extends WarmMachine {
  /** Resolves when it has its identity. */
  readonly identified: Promise<void>;
}

/** A sandbox that has its capacity, and the warm machine whose reservation it was, if it was one. */
interface Admitted {
  readonly record: SandboxRecord;
  readonly warm: Claimed | undefined;
  /** The save that it alone has. */
  readonly shelved?: SnapshotRecord | undefined;
  /** Where it comes from if not out of the pool. */
  readonly origin: Exclude<RestoreScenario, "refill" | "resume">;
  /** Monotonic. */
  readonly startedMs: number;
}

/** A warm machine answers within milliseconds; one that does not is replaced, and the client only sees that it took longer. */
const checkoutDeadlineMs = 3_000;

export class SandboxCreation {
  readonly #deps: CreationDependencies;
  readonly #queue: SerialQueue;
  readonly #attach: Attach;

  /** @param queue of the sandboxes: a kill waits for the create before it */
  constructor(deps: CreationDependencies, queue: SerialQueue, attach: Attach) {
    this.#deps = deps;
    this.#queue = queue;
    this.#attach = attach;
  }

  /**
   * @param options.signal the client has left: a create that waits for capacity gives up
   * @param options.idempotency written down with the sandbox
   * @throws not_found, disk_pressure, capacity_exhausted, machine_failed, cancelled, not_ready
   */
  async create(
    request: CreateSandboxRequest,
    { signal, idempotency }: { signal?: AbortSignal | undefined; idempotency?: Idempotency },
  ): Promise<SandboxView> {
    const { metrics, ledger, disk, admission, warmPool } = this.#deps;
    try {
      const resolved = resolveTemplate(ledger, request.template.name, request.template.tag);
      const { id, shape } = resolved.template;
      const end = warmPool.beginCreate(id);
      try {
        if (resolved.snapshot.state !== "ready") refuseUnreadySnapshot(ledger, resolved.snapshot.id);
        await disk.admit("create a sandbox");
        const admitted = await admission.admit(shape, () => this.#admit(request, resolved, idempotency), signal);
        const { shelved = resolved.snapshot } = admitted;
        const start = () => this.#start(admitted, shelved.folder, request.timeoutMs);
        const view = await this.#queue.run(admitted.record.id, start).finally(() => this.#useUp(admitted));
        metrics.sandboxesCreated.inc({ outcome: "created" });
        return view;
      } finally {
        end();
      }
    } catch (error) {
      metrics.sandboxesCreated.inc({ outcome: "failed" });
      throw error;
    }
  }

  /** Takes a warm machine's capacity, or reserves some, and writes the sandbox down: both or neither. */
  #admit(request: CreateSandboxRequest, resolved: ResolvedTemplate, idempotency?: Idempotency): Admitted {
    const { ledger, clock, warmPool, metrics } = this.#deps;
    const startedMs = clock.monotonicMs();
    const sandbox = { ...requested(request, resolved), id: this.#deps.newSandboxId() };
    const machine = warmPool.oldest(resolved);
    const warm = machine && this.#claim(machine, identityOf(sandbox));
    const insert = () => {
      const shelved = warm ? undefined : takeFromShelf(ledger, resolved.buildId);
      const snapshotId = shelved?.id ?? resolved.snapshot.id;
      const record = admitSandbox(this.#deps, { ...sandbox, snapshotId }, warm);
      if (idempotency) recordIdempotencyKey(ledger, { ...idempotency, sandboxId: sandbox.id });
      return { record, warm, shelved, origin: "create", startedMs } as const;
    };
    const admitted = warm ? warmPool.checkOut(warm, sandbox.id, insert) : ledger.write(insert);
    if (warmPool.enabled) metrics.warmPoolCheckouts.inc({ outcome: warm ? "hit" : "miss" });
    return admitted;
  }

  /**
   * Tells a warm machine whose it is before the ledger knows: the guest works while the sandbox is written down. Should
   * that fail, the machine stays in the pool, and is told the next one's identity over this.
   */
  #claim(machine: WarmMachine, identity: SandboxIdentity): Claimed {
    const identified = giveIdentity(machine.agent, identity, this.#deps.clock, checkoutDeadlineMs);
    identified.catch(() => {}); // whoever gets the machine awaits it; nobody does when the write failed
    return { ...machine, identified };
  }

  /** A save of the shelf is for one machine, whatever became of that. */
  #useUp({ shelved }: Admitted): void {
    const { ledger, terminator } = this.#deps;
    if (shelved) terminator.finish({ snapshotID: shelved.id }, () => discardContinuation(ledger, shelved));
  }

  /** Starts a sandbox that has its capacity, from a snapshot of another one. On failure it is ended. */
  startFrom(
    record: SandboxRecord,
    { folder }: SnapshotRecord,
    { origin, timeoutMs }: { readonly origin: "fork" | "followup"; readonly timeoutMs: number },
  ): Promise<SandboxView> {
    const admitted = { record, warm: undefined, origin, startedMs: this.#deps.clock.monotonicMs() };
    return this.#queue.run(record.id, () => this.#start(admitted, folder, timeoutMs));
  }

  async #start(admitted: Admitted, snapshotFolder: string, timeoutMs: number): Promise<SandboxView> {
    const { ledger, clock, reach } = this.#deps;
    const { id } = admitted.record;
    const warm = await this.#personalize(admitted);
    await using machine = warm ?? (await this.#restore(admitted, snapshotFolder));
    const { vm, agent, restoreStartedMs } = machine;
    const origin = warm ? "pool" : admitted.origin;
    const endAtMs = clock.nowMs() + timeoutMs;
    const running = moveSandbox(ledger, id, "creating", "running", { machine: vm.record, endAtMs });
    reach(`${origin}.running`);
    const view = this.#attach(running, { vm, agent, origin, restoreStartedMs });
    machine.take();
    return view;
  }

  /** Makes a warm machine the sandbox's; undefined when there is none, or it failed and is gone. */
  async #personalize({ record, warm, startedMs }: Admitted): Promise<HeldMachine | undefined> {
    if (!warm) return undefined;
    const { clock, samples, metrics, log, terminator, reach } = this.#deps;
    const { vm, agent, identified } = warm;
    reach("pool.checked_out");
    try {
      // Warm machines wait with the network on.
      if (!record.allowInternetAccess) await vm.setInternetAccess(false);
      await identified;
      reach("pool.identified");
      samples.record("warm_pool_checkout", "pool", clock.monotonicMs() - startedMs, record.id);
      return new HeldMachine(vm, agent, undefined, (destroy) => terminator.terminate(record, destroy));
    } catch (error) {
      metrics.warmPoolCheckouts.inc({ outcome: "failed" });
      log.warn(
        { sandboxID: record.id, reason: messageOf(error) },
        "a warm machine failed its probe; restoring another",
      );
    }
    try {
      agent.close();
      // Its capacity is the sandbox's, for one machine at a time.
      await vm.terminate();
      return undefined;
    } catch (error) {
      terminator.terminate(record, () => vm.terminate());
      throw error;
    }
  }

  #restore({ record, origin }: Admitted, snapshotFolder: string): Promise<HeldMachine> {
    const { ledger, terminator, reach } = this.#deps;
    reach(`${origin}.reserved`);
    const order = {
      snapshotFolder,
      sessionId: newSessionId(),
      identity: identityOf(record),
      internetAccess: record.allowInternetAccess,
      // Other templates may have a start command, whose processes are in their memory.
      mayBoot: origin === "create" && record.templateAlias === baseAlias,
    };
    return restoreMachine(this.#deps, order, {
      sandboxId: record.id,
      scenario: origin,
      writeDown: (machine) => setSandboxMachine(ledger, record.id, machine),
      // In the background, so that a machine that does not go keeps its reservation and the client its answer.
      abandon: (destroy) => terminator.terminate(record, destroy),
    });
  }
}

/** What a client asked for, over what the template has. */
function requested(request: CreateSandboxRequest, { template, defaults }: ResolvedTemplate) {
  return {
    templateId: template.id,
    templateAlias: template.aliases[0] ?? null,
    shape: template.shape,
    defaults: { user: defaults.user, workdir: defaults.workdir },
    envs: { ...defaults.envs, ...request.envs },
    metadata: request.metadata,
    allowInternetAccess: request.allowInternetAccess,
    ingress: request.ingress,
    lifecycle: { ...request.lifecycle, timeoutMs: request.timeoutMs },
  };
}

function identityOf(sandbox: Pick<SandboxRecord, "id" | "templateId" | "envs" | "defaults">): SandboxIdentity {
  const { id: sandboxId, templateId, envs, defaults } = sandbox;
  return { sandboxId, templateId, envs, defaults };
}
