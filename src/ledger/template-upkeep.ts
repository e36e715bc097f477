/** The upkeep of existing templates: their tags, their visibility, and their end. */
import { DomainError } from "../errors.ts";
import type { Ledger } from "./open.ts";
import { deleteSnapshot, listSnapshots, type SnapshotRecord } from "./snapshots.ts";
import { defaultTag, findTemplate, type TemplateRecord } from "./templates.ts";

/**
 * Points `tags` of a template to the build with tag `from`.
 * @returns that build's id
 * @throws not_found, in E2B's words, for an unknown template or tag
 */
export function assignTags(ledger: Ledger, name: string, from: string, tags: readonly string[]): string {
  return ledger.writeDurably(() => {
    const template = mustFind(ledger, name);
    const source = template.tags.find(({ tag }) => tag === from);
    if (!source) throw new DomainError("not_found", `tag '${from}' does not exist for template '${name}'`);
    const assign = ledger.statement(
      `insert into template_tags (template_id, tag, build_id, assigned_at_ms) values (:id, :tag, :buildId, :nowMs)
       on conflict do update set build_id = :buildId, assigned_at_ms = :nowMs`,
    );
    for (const tag of tags) assign.run({ id: template.id, tag, buildId: source.buildId, nowMs: ledger.nowMs() });
    return source.buildId;
  });
}

/**
 * Takes tags off a template. Tags that it does not have are ignored.
 * @throws failed_precondition for the default tag; not_found for an unknown template
 */
export function removeTags(ledger: Ledger, name: string, tags: readonly string[]): void {
  if (tags.includes(defaultTag)) {
    throw new DomainError("failed_precondition", `the tag '${defaultTag}' cannot be removed`);
  }
  ledger.writeDurably(() => {
    const { id } = mustFind(ledger, name);
    const remove = ledger.statement("delete from template_tags where template_id = :id and tag = :tag");
    for (const tag of tags) remove.run({ id, tag });
  });
}

/** @throws not_found */
export function setTemplatePublic(ledger: Ledger, name: string, isPublic: boolean): TemplateRecord {
  return ledger.writeDurably(() => {
    const { id } = mustFind(ledger, name);
    ledger
      .statement("update templates set public = :public, updated_at_ms = :nowMs where id = :id")
      .run({ id, public: isPublic ? 1 : 0, nowMs: ledger.nowMs() });
    return mustFind(ledger, id);
  });
}

/** @throws failed_precondition while a sandbox made from the template has not ended; not_found */
export function refuseTemplateInUse(ledger: Ledger, name: string): void {
  const { id } = mustFind(ledger, name);
  const inUse = ledger
    .statement("select 1 from sandboxes where template_id = :id and state <> 'terminated' limit 1")
    .get({ id });
  if (!inUse) return;
  const message = `cannot delete template '${name}' because there are running or paused sandboxes using it`;
  throw new DomainError("failed_precondition", message, { id });
}

/**
 * Removes a template with its aliases, tags and builds. Its snapshots stay until {@link strikeUnneededSnapshots}.
 * @throws failed_precondition while a sandbox made from it has not ended or a build of it is unfinished; not_found
 */
export function deleteTemplate(ledger: Ledger, name: string): void {
  ledger.writeDurably(() => {
    refuseTemplateInUse(ledger, name);
    const { id } = mustFind(ledger, name);
    const building = ledger
      .statement("select 1 from template_build_jobs where template_id = :id and state = 'building' limit 1")
      .get({ id });
    if (building) {
      throw new DomainError("failed_precondition", `cannot delete template '${name}' while a build of it is under way`);
    }
    ledger.statement("delete from templates where id = :id").run({ id });
  });
}

/**
 * Strikes off every template's snapshot that no tag points to and no sandbox or warming entry needs.
 * @param keep snapshots that the caller needs now
 * @returns the snapshots that were struck off now; their folders may be removed
 */
export function strikeUnneededSnapshots(ledger: Ledger, keep: ReadonlySet<string> = new Set()): SnapshotRecord[] {
  return ledger.write(() =>
    listSnapshots(ledger, ["ready"])
      .filter(({ id, kind }) => kind === "template" && !keep.has(id))
      .filter(({ id }) => {
        try {
          deleteSnapshot(ledger, id);
          return true;
        } catch (error) {
          if (error instanceof DomainError && error.code === "failed_precondition") return false;
          throw error;
        }
      }),
  );
}

function mustFind(ledger: Ledger, name: string): TemplateRecord {
  const template = findTemplate(ledger, name);
  if (!template) throw new DomainError("not_found", `template '${name}' not found`, { name });
  return template;
}
