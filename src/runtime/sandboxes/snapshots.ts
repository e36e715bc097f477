/** The snapshots that clients take of running sandboxes: each is a template, which has a list of its own. */
import {
  deleteSandboxSnapshot,
  findSnapshotTemplate,
  isSandboxSnapshot,
  listSandboxSnapshots,
  publishSandboxSnapshot,
} from "../../ledger/sandbox-snapshots.ts";
import { registerSnapshot, type SnapshotFacts } from "../../ledger/snapshots.ts";
import { defaultTag, findTemplate } from "../../ledger/templates.ts";
import { newSnapshotPlace } from "../../machine/snapshot-files.ts";
import type { ListSnapshotsPage, ListSnapshotsQuery, SnapshotView } from "../contract.ts";
import { removeStruckOff } from "../machines/capture.ts";
import { captureInPlace } from "./capture-in-place.ts";
import type { SandboxContext } from "./context.ts";

export class SandboxSnapshots {
  readonly #context: SandboxContext;

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /**
   * Makes a template of a running sandbox, which stops for the capture and goes on.
   * @throws DomainError `not_found` (paused too), `invalid_argument` (the name is taken), `disk_pressure`,
   *   `machine_failed`, `not_ready`; there is no template then, and the sandbox goes on
   */
  take(id: string, name?: { readonly name: string; readonly tag: string | undefined }): Promise<SnapshotView> {
    const { deps, registry, queue } = this.#context;
    const { ledger, disk, newTemplateId, snapshotsFolder, logs } = deps;
    const alias = name?.name ?? null;
    const tag = name?.tag ?? defaultTag;
    return queue.run(id, async () => {
      const { record, session } = registry.getRunning(id);
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
      const template = { alias, tag, shape: record.shape, defaults: { envs: {}, ...record.defaults } };
      const publish = (facts: SnapshotFacts) => publishSandboxSnapshot(ledger, snapshot, facts, template);
      await captureInPlace(this.#context, session, snapshot, { scenario: "snapshot", publish });
      const names = { event: "snapshot", templateID: templateId, ...(alias !== null && { name: `${alias}:${tag}` }) };
      logs.note(id, "A snapshot was taken of the sandbox", names);
      return { templateId, alias, tag };
    });
  }

  /** Newest first. */
  list(query: ListSnapshotsQuery): ListSnapshotsPage {
    const rows = listSandboxSnapshots(this.#context.deps.ledger, { ...query, limit: query.limit + 1 });
    const snapshots = rows.slice(0, query.limit);
    return { snapshots, next: rows.length > snapshots.length ? snapshots.at(-1) : undefined };
  }

  /** Whether a name or id stands for a snapshot of a sandbox, and not for a template that was built. */
  has(name: string): boolean {
    return isSandboxSnapshot(this.#context.deps.ledger, name);
  }

  /** @throws DomainError `not_found`, `unsupported` (a template that was built), `failed_precondition` (in use) */
  async remove(name: string, tag: string | undefined): Promise<void> {
    const { ledger, unfinishedWork, warmPool } = this.#context.deps;
    // Sandboxes of the snapshot that were killed are no reason to refuse, nor are warm machines. A machine that cannot
    // be
    // ended is.
    await unfinishedWork.settle();
    const strikeOff = () => deleteSandboxSnapshot(ledger, name, tag);
    const templateId = findTemplate(ledger, name)?.id;
    const snapshot = templateId === undefined ? strikeOff() : await warmPool.withdraw(templateId, strikeOff);
    await removeStruckOff(ledger, snapshot);
  }
}
