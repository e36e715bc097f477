/**
 * Snapshots that clients took of their sandboxes. Each is a template of its own, or a tag of the template it was named
 * after, so that sandboxes are made from it like from every other template.
 */
import { randomUUID } from "node:crypto";
import { DomainError } from "../errors.ts";
import type { MachineShape } from "../types.ts";
import type { Ledger } from "./open.ts";
import {
  deleteSnapshot,
  getSnapshot,
  markSnapshotReady,
  type SnapshotFacts,
  type SnapshotRecord,
} from "./snapshots.ts";
import {
  defaultTag,
  findTemplate,
  insertTemplate,
  publishBuild,
  type TemplateDefaults,
  type TemplateRecord,
} from "./templates.ts";

export interface SandboxSnapshot {
  readonly templateId: string;
  /** Null when the client gave it no name. */
  readonly alias: string | null;
  readonly tag: string;
  readonly sandboxId: string;
  readonly createdAtMs: number;
  /** Letters and digits that order the snapshots of one millisecond. */
  readonly position: string;
}

export interface SandboxSnapshotQuery {
  readonly sandboxId?: string;
  /** A template's id or alias. */
  readonly name?: string;
  /** Undefined: every tag. */
  readonly tag?: string | undefined;
  readonly limit: number;
  readonly after?: { readonly createdAtMs: number; readonly position: string };
}

/**
 * The template of which a snapshot named `alias` becomes a build; undefined when there is none yet.
 * @throws invalid_argument when `alias` belongs to a template that was built
 */
export function findSnapshotTemplate(ledger: Ledger, alias: string): TemplateRecord | undefined {
  const template = findTemplate(ledger, alias);
  if (template && !isMadeOfSandboxes(ledger, template.id)) {
    throw new DomainError(
      "invalid_argument",
      `the name '${alias}' belongs to a template that was built: choose another`,
    );
  }
  return template;
}

/**
 * Makes a registered snapshot ready and publishes it as a template, durably.
 * @throws invalid_argument when `alias` belongs to a template that was built; the snapshot stays unpublished
 */
export function publishSandboxSnapshot(
  ledger: Ledger,
  snapshot: SnapshotRecord,
  facts: SnapshotFacts,
  build: {
    readonly alias: string | null;
    readonly tag: string;
    readonly shape: MachineShape;
    /** The defaults of the sandbox. */
    readonly defaults: TemplateDefaults;
  },
): void {
  const { id: snapshotId, logicalId: templateId } = snapshot;
  const { alias, tag, shape, defaults } = build;
  ledger.writeDurably(() => {
    markSnapshotReady(ledger, snapshotId, facts);
    const known = alias === null ? undefined : findSnapshotTemplate(ledger, alias);
    if (!known) {
      const aliases = alias === null ? [] : [alias];
      insertTemplate(ledger, { id: templateId, aliases, shape, public: false });
    }
    publishBuild(ledger, {
      id: randomUUID(),
      templateId: known?.id ?? templateId,
      snapshotId,
      shape,
      defaults,
      tags: [tag],
    });
  });
}

/** Newest first, with one row for each tag that points to a snapshot. */
export function listSandboxSnapshots(ledger: Ledger, query: SandboxSnapshotQuery): SandboxSnapshot[] {
  const { sandboxId = null, name = null, tag = null, limit, after } = query;
  return ledger
    .statement<SandboxSnapshot>(
      `select t.template_id as templateId, t.tag, s.sandbox_id as sandboxId, b.created_at_ms as createdAtMs,
              replace(b.id, '-', '') as position,
              (select alias from template_aliases a where a.template_id = t.template_id order by position limit 1) as alias
       from template_tags t join template_builds b on b.id = t.build_id join snapshots s on s.id = b.snapshot_id
       where s.sandbox_id is not null and (:sandboxId is null or s.sandbox_id = :sandboxId)
       and (:name is null or t.template_id = :name or exists (
         select 1 from template_aliases a where a.template_id = t.template_id and a.alias = :name))
       and (:tag is null or t.tag = :tag)
       and (:afterMs is null or (b.created_at_ms, replace(b.id, '-', '')) < (:afterMs, :afterPosition))
       order by b.created_at_ms desc, replace(b.id, '-', '') desc limit :limit`,
    )
    .all({ sandboxId, name, tag, limit, afterMs: after?.createdAtMs ?? null, afterPosition: after?.position ?? null });
}

/**
 * Strikes a snapshot off, and forgets its template when it was the last one there. Its files may be removed afterwards.
 * @throws not_found; unsupported for a template that was built; failed_precondition while a sandbox uses the snapshot
 */
export function deleteSandboxSnapshot(ledger: Ledger, name: string, tag: string = defaultTag): SnapshotRecord {
  return ledger.write(() => {
    const template = findTemplate(ledger, name);
    const build = template?.tags.find((each) => each.tag === tag)?.buildId;
    if (!template || build === undefined) throw new DomainError("not_found", `template '${name}:${tag}' not found`);
    if (!isMadeOfSandboxes(ledger, template.id)) {
      throw new DomainError("unsupported", "Deleting templates that were built: not supported by this daemon yet.");
    }
    const row = ledger
      .statement<{ id: string }>("select snapshot_id as id from template_builds where id = :build")
      .get({ build });
    const snapshot = row && getSnapshot(ledger, row.id);
    if (!snapshot) throw new DomainError("internal", `build ${build} has no snapshot`);
    const users = ledger
      .statement<{ id: string }>(
        "select id from sandboxes where template_id = :id and state not in ('terminating', 'terminated') limit 3",
      )
      .all({ id: template.id });
    if (users.length > 0) {
      const ids = users.map(({ id }) => id).join(", ");
      throw new DomainError("failed_precondition", `cannot delete '${name}': sandboxes made from it are there: ${ids}`);
    }
    ledger.statement("delete from template_tags where template_id = :id and tag = :tag").run({ id: template.id, tag });
    deleteSnapshot(ledger, snapshot.id);
    ledger.statement("delete from template_builds where id = :build").run({ build });
    const isLast = template.tags.length === 1;
    if (isLast) ledger.statement("delete from templates where id = :id").run({ id: template.id });
    return snapshot;
  });
}

/** Whether a name stands for snapshots of sandboxes, and not for a template that was built or will be. */
export function isSandboxSnapshot(ledger: Ledger, name: string): boolean {
  const template = findTemplate(ledger, name);
  return template !== undefined && template.buildIds.length > 0 && isMadeOfSandboxes(ledger, template.id);
}

/** Whether every build of a template is a snapshot of a sandbox. */
function isMadeOfSandboxes(ledger: Ledger, templateId: string): boolean {
  const built = ledger
    .statement<{ id: string }>(
      `select b.id from template_builds b join snapshots s on s.id = b.snapshot_id
       where b.template_id = :templateId and s.sandbox_id is null limit 1`,
    )
    .get({ templateId });
  return built === undefined;
}
