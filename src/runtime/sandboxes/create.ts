/**
 * The creation of a sandbox: template → disk guard → admission → checkout of a warm machine, else a restore → readiness
 * probe → shown. A step that fails undoes those before it, and releases the capacity last.
 */
import { isDomainError, messageOf } from "../../errors.ts";
import { type Idempotency, recordIdempotencyKey } from "../../ledger/idempotency-keys.ts";
import type { Ledger } from "../../ledger/open.ts";
import { moveSandbox, setSandboxMachine } from "../../ledger/sandboxes.ts";
import { takeFromShelf } from "../../ledger/shelf.ts";
import type { SnapshotRecord } from "../../ledger/snapshots.ts";
import { type ResolvedTemplate, resolveTemplate } from "../../ledger/templates.ts";
import type { RestoreScenario } from "../../lifecycle-steps.ts";
import { newSessionId } from "../../machine/driver.ts";
import { refuseUnreadyTemplate } from "../../template/base/damage.ts";
import { baseAlias } from "../../template/base/template.ts";
import type { SandboxRecord } from "../../types.ts";
import type { CreateSandboxRequest, SandboxView } from "../contract.ts";
import { discardContinuation } from "../machines/capture.ts";
import { giveIdentity, type SandboxIdentity } from "../machines/identity.ts";
import { HeldMachine, restoreMachine } from "../machines/restore.ts";
import type { WarmMachine } from "../pool/warm-machine.ts";
import type { SandboxContext } from "./context.ts";
import { enrollSandbox } from "./enroll.ts";

/** A warm machine that a create checks out, and that is being told its identity. */
interface CheckedOutMachine extends WarmMachine {
  /** Resolves when the guest has its identity. */
  readonly identified: Promise<void>;
}

/** A sandbox that has its capacity, with the warm machine that the capacity came from, if there is one. */
interface AdmittedCreate {
  readonly record: SandboxRecord;
  readonly warm: CheckedOutMachine | undefined;
  /** The individual snapshot that was made for this sandbox alone. */
  readonly shelved?: SnapshotRecord | undefined;
  /** The origin of its session unless its machine comes out of the pool. */
  readonly origin: Exclude<RestoreScenario, "refill" | "resume">;
  /** Monotonic. */
  readonly startedMs: number;
}

/** A sandbox that a fork or a follow-up makes. */
export interface ChildStart {
  readonly origin: "fork" | "followup";
  readonly timeoutMs: number;
}

/**
 * A warm machine answers within milliseconds. One that does not is replaced, which the client sees as a longer create.
 */
const checkoutDeadlineMs = 3_000;

export class SandboxCreation {
  readonly #context: SandboxContext;

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /**
   * @param options.signal aborts when the client has left: a create that waits for capacity gives up then
   * @param options.idempotency written down with the sandbox
   * @throws DomainError `not_found` (template or tag), `disk_pressure`, `capacity_exhausted`, `failed_precondition` (a
   *   damaged snapshot), `machine_failed`, `cancelled`, `not_ready` while the daemon stops or makes a damaged `base`
   *   again; there is no sandbox then
   */
  async create(
    request: CreateSandboxRequest,
    { signal, idempotency }: { signal?: AbortSignal | undefined; idempotency?: Idempotency },
  ): Promise<SandboxView> {
    const { deps, queue } = this.#context;
    const { metrics, ledger, disk, admission, warmPool } = deps;
    try {
      deps.wantedTemplates.refuseUnmade(request.template.name);
      const resolved = resolveTemplate(ledger, request.template.name, request.template.tag);
      const { id, shape } = resolved.template;
      const end = warmPool.beginCreate(id);
      try {
        if (resolved.snapshot.state !== "ready") refuseUnreadyTemplate(ledger, resolved);
        await disk.admit("create a sandbox");
        const attempt = () => this.#enroll(request, resolved, idempotency);
        const admitted = await admission.admit(shape, attempt, signal);
        const { shelved = resolved.snapshot } = admitted;
        const start = () => this.#start(admitted, shelved.folder, request.timeoutMs);
        const view = await queue
          .runAlways(admitted.record.id, start)
          .catch((error) => throwOnceUnready(ledger, resolved, error))
          .finally(() => this.#discardShelved(admitted));
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

  /** Starts a sandbox that has its capacity from another sandbox's snapshot. On failure the sandbox is ended. */
  startFrom(
    record: SandboxRecord,
    { folder }: SnapshotRecord,
    { origin, timeoutMs }: ChildStart,
  ): Promise<SandboxView> {
    const { deps, queue } = this.#context;
    const admitted = { record, warm: undefined, origin, startedMs: deps.clock.monotonicMs() };
    return queue.runAlways(record.id, () => this.#start(admitted, folder, timeoutMs));
  }

  /** Takes a warm machine's reservation, or makes one, and writes the sandbox down: both or neither. */
  #enroll(request: CreateSandboxRequest, resolved: ResolvedTemplate, idempotency?: Idempotency): AdmittedCreate {
    const { deps } = this.#context;
    const { ledger, clock, warmPool, metrics } = deps;
    const startedMs = clock.monotonicMs();
    const sandbox = { ...requestedSandbox(request, resolved), id: deps.newSandboxId() };
    const machine = warmPool.oldest(resolved);
    const warm = machine && this.#identify(machine, identityOf(sandbox));
    const insert = () => {
      const shelved = warm ? undefined : takeFromShelf(ledger, resolved.buildId);
      const snapshotId = shelved?.id ?? resolved.snapshot.id;
      const record = enrollSandbox(deps, { ...sandbox, snapshotId }, warm);
      if (idempotency) recordIdempotencyKey(ledger, { ...idempotency, sandboxId: sandbox.id });
      return { record, warm, shelved, origin: "create", startedMs } as const;
    };
    const admitted = warm ? warmPool.checkOut(warm, sandbox.id, insert) : ledger.write(insert);
    if (warmPool.enabled) metrics.warmPoolCheckouts.inc({ outcome: warm ? "hit" : "miss" });
    return admitted;
  }

  /**
   * Tells a warm machine its identity before the ledger knows, so that the guest works while the sandbox is written
   * down. If the write fails the machine stays in the pool, and the next create's identity replaces this one.
   */
  #identify(machine: WarmMachine, identity: SandboxIdentity): CheckedOutMachine {
    const identified = giveIdentity(machine.agent, identity, this.#context.deps.clock, checkoutDeadlineMs);
    identified.catch(() => {}); // the checkout awaits it; after a failed write there is no checkout
    return { ...machine, identified };
  }

  /** Removes the individual snapshot of a create, which is for one machine only, whatever became of the machine. */
  #discardShelved({ shelved }: AdmittedCreate): void {
    const { ledger, unfinishedWork } = this.#context.deps;
    if (shelved) unfinishedWork.finish({ snapshotID: shelved.id }, () => discardContinuation(ledger, shelved));
  }

  async #start(admitted: AdmittedCreate, snapshotFolder: string, timeoutMs: number): Promise<SandboxView> {
    const { deps, sessions } = this.#context;
    const { ledger, clock, reach } = deps;
    const { id } = admitted.record;
    const warm = await this.#personalize(admitted);
    await using machine = warm ?? (await this.#restore(admitted, snapshotFolder));
    const { vm, agent, restoreStartedMs } = machine;
    const origin = warm ? "pool" : admitted.origin;
    const endAtMs = clock.nowMs() + timeoutMs;
    const running = moveSandbox(ledger, id, "creating", "running", {
      machine: { ...vm.record, bootId: agent.bootId },
      endAtMs,
    });
    reach(`${origin}.running`);
    const view = sessions.attach(running, { vm, agent, origin, restoreStartedMs });
    machine.take();
    return view;
  }

  /** Makes a warm machine the sandbox's; undefined when there is none, or it failed and is gone. */
  async #personalize({ record, warm, startedMs }: AdmittedCreate): Promise<HeldMachine | undefined> {
    if (!warm) return undefined;
    const { clock, samples, metrics, log, unfinishedWork, reach } = this.#context.deps;
    const { vm, agent, identified } = warm;
    reach("pool.checked_out");
    try {
      // Warm machines wait with the network on.
      if (!record.allowInternetAccess) await vm.setInternetAccess(false);
      await identified;
      reach("pool.identified");
      samples.record("warm_pool_checkout", "pool", clock.monotonicMs() - startedMs, record.id);
      return new HeldMachine(vm, agent, undefined, (destroy) => unfinishedWork.terminate(record, destroy));
    } catch (error) {
      metrics.warmPoolCheckouts.inc({ outcome: "failed" });
      const reason = messageOf(error);
      log.warn({ sandboxID: record.id, reason }, "a warm machine failed its probe; restoring another");
    }
    try {
      agent.close();
      // The sandbox's capacity is for one machine at a time.
      await vm.terminate();
      return undefined;
    } catch (error) {
      unfinishedWork.terminate(record, () => vm.terminate());
      throw error;
    }
  }

  #restore({ record, origin }: AdmittedCreate, snapshotFolder: string): Promise<HeldMachine> {
    const { deps } = this.#context;
    const { ledger, unfinishedWork, reach } = deps;
    reach(`${origin}.reserved`);
    const order = {
      snapshotFolder,
      sessionId: newSessionId(),
      identity: identityOf(record),
      internetAccess: record.allowInternetAccess,
      // Other templates may have a start command, and its processes are in their memory.
      mayBoot: origin === "create" && record.templateAlias === baseAlias,
    };
    return restoreMachine(deps, order, {
      sandboxId: record.id,
      scenario: origin,
      writeDown: (machine) => setSandboxMachine(ledger, record.id, machine),
      // In the background, so that a machine that does not end keeps its reservation and the client gets its answer.
      abandon: (destroy) => unfinishedWork.terminate(record, destroy),
    });
  }
}

/** A snapshot that this very create found damaged is refused as it is from now on. @throws always */
function throwOnceUnready(ledger: Ledger, resolved: ResolvedTemplate, error: unknown): never {
  if (isDomainError(error, "failed_precondition")) refuseUnreadyTemplate(ledger, resolved);
  throw error;
}

/** The sandbox that a client asked for: its request over the template's defaults. */
function requestedSandbox(request: CreateSandboxRequest, { template, defaults }: ResolvedTemplate) {
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
