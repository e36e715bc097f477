/**
 * What is made of a sandbox while it goes on: forks, and snapshots that are templates; and follow-ups of one that is
 * paused. The source stops for a moment, in its serial queue; children are restored beside it.
 */
import { DomainError } from "../../errors.ts";
import {
  deleteSandboxSnapshot,
  findSnapshotTemplate,
  listSandboxSnapshots,
  publishSandboxSnapshot,
} from "../../ledger/sandbox-snapshots.ts";
import {
  deleteSnapshot,
  getSnapshot,
  markSnapshotReady,
  refuseUnreadySnapshot,
  registerSnapshot,
  type SnapshotFacts,
  type SnapshotRecord,
} from "../../ledger/snapshots.ts";
import { defaultTag, findTemplate } from "../../ledger/templates.ts";
import { newSnapshotPlace, removeSnapshot } from "../../machine/snapshot-files.ts";
import type { SandboxRecord } from "../../types.ts";
import { captureSession, discardContinuation, registerContinuation, removeStruckOff } from "../machines/capture.ts";
import type { WarmPool } from "../pool/warm-pool.ts";
import type {
  FollowupRequest,
  ForkOutcome,
  ListSnapshotsPage,
  ListSnapshotsQuery,
  SandboxView,
  SnapshotView,
} from "../runtime.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import { admitSandbox } from "./admit.ts";
import type { PauseDependencies } from "./pause.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";

export interface ForkDependencies extends PauseDependencies {
  readonly newSandboxId: () => string;
  readonly newTemplateId: () => string;
  readonly warmPool: WarmPool;
}

/** Restores a sandbox that was admitted; on failure it is ended. */
type Start = (
  record: SandboxRecord,
  snapshot: SnapshotRecord,
  options: { readonly origin: "fork" | "followup"; readonly timeoutMs: number },
) => Promise<SandboxView>;

/** What is done elsewhere. */
export interface ForkSteps {
  readonly start: Start;
  /** Writes down the pause of a sandbox that is paused in memory. @throws not_ready while the host saves nothing */
  readonly saveInQueue: (record: SandboxRecord) => Promise<void>;
}

/** So many children are restored at a time: more would only wait for each other's processor. */
const restoresAtOnce = 4;

export class SandboxForks {
  readonly #deps: ForkDependencies;
  readonly #registry: SandboxRegistry;
  readonly #queue: SerialQueue;
  readonly #start: Start;
  readonly #saveInQueue: ForkSteps["saveInQueue"];

  constructor(deps: ForkDependencies, registry: SandboxRegistry, queue: SerialQueue, steps: ForkSteps) {
    this.#deps = deps;
    this.#registry = registry;
    this.#queue = queue;
    this.#start = steps.start;
    this.#saveInQueue = steps.saveInQueue;
  }

  /** See `Runtime.forkSandbox`. */
  async fork(id: string, options: { readonly count: number; readonly timeoutMs: number }): Promise<ForkOutcome[]> {
    const { ledger, disk, budgets, driver } = this.#deps;
    const { fanOut } = driver.info.abilities;
    if (!fanOut.supported) {
      const { engine } = driver.info;
      throw new DomainError("unsupported", `the ${engine} engine cannot fork a sandbox on this host: ${fanOut.reason}`);
    }
    if (options.count >= budgets.sandboxes) {
      const message = `count must be less than the ${budgets.sandboxes} sandboxes that may exist`;
      throw new DomainError("invalid_argument", message);
    }
    const [source, snapshot] = await this.#queue.run(id, async () => {
      if (this.#registry.get(id).state === "paused") {
        throw new DomainError("invalid_state", `Sandbox ${id} is paused: resume it first`);
      }
      const { record, session } = this.#registry.getRunning(id);
      await disk.admit("fork a sandbox", "save");
      const moment = registerContinuation(this.#deps, id, "fork");
      await this.#captureInPlace(session, moment, "fork", (facts) => markSnapshotReady(ledger, moment.id, facts));
      this.#deps.logs.record(id, `The sandbox was forked ${options.count} times`, { event: "forked" });
      return [record, moment] as const;
    });
    return this.#queue.run(snapshot.id, () => this.#restoreForks(source, snapshot, options));
  }

  /** See `Runtime.snapshotSandbox`. */
  snapshot(id: string, name?: { readonly name: string; readonly tag: string | undefined }): Promise<SnapshotView> {
    const { ledger, disk, newTemplateId, snapshotsFolder } = this.#deps;
    const alias = name?.name ?? null;
    const tag = name?.tag ?? defaultTag;
    return this.#queue.run(id, async () => {
      const { record, session } = this.#registry.getRunning(id);
      const known = alias === null ? undefined : findSnapshotTemplate(ledger, alias);
      await disk.admit("snapshot a sandbox", "save");
      const templateId = known?.id ?? newTemplateId();
      const snapshot = registerSnapshot(ledger, {
        ...newSnapshotPlace(snapshotsFolder),
        kind: "template",
        logicalId: templateId,
        sandboxId: id,
        reason: null,
      });
      await this.#captureInPlace(session, snapshot, "snapshot", (facts) =>
        publishSandboxSnapshot(ledger, snapshot, facts, {
          alias,
          tag,
          shape: record.shape,
          defaults: { envs: {}, ...record.defaults },
        }),
      );
      const names = { event: "snapshot", templateID: templateId, ...(alias !== null && { name: `${alias}:${tag}` }) };
      this.#deps.logs.record(id, "A snapshot was taken of the sandbox", names);
      return { templateId, alias, tag };
    });
  }

  /** See `Runtime.listSnapshots`. */
  listSnapshots(query: ListSnapshotsQuery): ListSnapshotsPage {
    const rows = listSandboxSnapshots(this.#deps.ledger, { ...query, limit: query.limit + 1 });
    const snapshots = rows.slice(0, query.limit);
    return { snapshots, next: rows.length > snapshots.length ? snapshots.at(-1) : undefined };
  }

  /** See `Runtime.deleteSnapshot`. */
  async deleteSnapshot(name: string, tag: string | undefined): Promise<void> {
    const { ledger, terminator, warmPool } = this.#deps;
    // What was made from the snapshot and killed is no reason to refuse, nor what is made ahead of demand. What cannot
    // be ended is.
    await terminator.settle();
    const remove = () => deleteSandboxSnapshot(ledger, name, tag);
    const templateId = findTemplate(ledger, name)?.id;
    const snapshot = templateId === undefined ? remove() : await warmPool.withdraw(templateId, remove);
    await removeStruckOff(ledger, snapshot);
  }

  /** See `Runtime.followUpSandbox`. In the paused one's queue, so that its snapshot stays while it is restored. */
  followUp(id: string, request: FollowupRequest): Promise<{ view: SandboxView; reason: string }> {
    const { ledger, disk } = this.#deps;
    return this.#queue.run(id, async (overtaken) => {
      const found = this.#registry.get(id);
      if (found.state === "running") {
        throw new DomainError("invalid_state", `Sandbox ${id} is running: only a paused one can be followed up`);
      }
      if (found.record.state === "paused_in_memory") await this.#saveInQueue(found.record);
      const { record: source } = this.#registry.get(id);
      refuseUnreadySnapshot(ledger, source.snapshotId);
      await disk.admit("follow up a sandbox");
      const snapshot = getSnapshot(ledger, source.snapshotId);
      if (!snapshot?.reason) throw new DomainError("internal", `paused sandbox ${id} has no continuation`);
      const { timeoutMs, metadata = source.metadata, envs = source.envs } = request;
      return {
        view: await this.#spawn({ ...source, metadata, envs }, snapshot, { origin: "followup", timeoutMs }, overtaken),
        reason: snapshot.reason,
      };
    });
  }

  /** Restores children of `source` from their common moment, which is removed afterwards. */
  async #restoreForks(
    source: SandboxRecord,
    snapshot: SnapshotRecord,
    { count, timeoutMs }: { readonly count: number; readonly timeoutMs: number },
  ): Promise<ForkOutcome[]> {
    const { ledger, terminator } = this.#deps;
    const outcomes: ForkOutcome[] = [];
    let next = 0;
    const worker = async () => {
      for (let child = next++; child < count; child = next++) {
        outcomes[child] = await this.#spawn(source, snapshot, { origin: "fork", timeoutMs }).then(
          (view) => ({ view }),
          (error: unknown) => ({ error }),
        );
      }
    };
    await Promise.all(Array.from({ length: restoresAtOnce }, worker));
    terminator.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
    return outcomes;
  }

  /** Admits and starts one sandbox that is like `source`. */
  async #spawn(
    source: SandboxRecord,
    snapshot: SnapshotRecord,
    { origin, timeoutMs }: { readonly origin: "fork" | "followup"; readonly timeoutMs: number },
    overtaken?: AbortSignal,
  ): Promise<SandboxView> {
    const { admission, newSandboxId } = this.#deps;
    const lifecycle = { ...source.lifecycle, timeoutMs };
    const child = { ...source, id: newSandboxId(), snapshotId: snapshot.id, lifecycle };
    const record = await admission.admit(source.shape, () => admitSandbox(this.#deps, child), overtaken);
    return this.#start(record, snapshot, { origin, timeoutMs });
  }

  /** Saves a session's machine, which goes on whatever comes of it, and publishes what was saved. */
  async #captureInPlace(
    session: LiveSession,
    snapshot: SnapshotRecord,
    scenario: "fork" | "snapshot",
    publish: (facts: SnapshotFacts) => void,
  ): Promise<void> {
    session.isStopped = true;
    try {
      const capturing = captureSession(this.#deps, session, snapshot, { isLast: false, scenario });
      publish(await capturing.finally(() => session.vm.resume()));
      this.#deps.reach(`${scenario}.published`);
    } catch (error) {
      const { ledger, terminator } = this.#deps;
      terminator.finish({ snapshotID: snapshot.id }, async () => {
        deleteSnapshot(ledger, snapshot.id);
        await removeSnapshot(snapshot.folder);
      });
      throw error;
    } finally {
      session.isStopped = false;
    }
  }
}
