/**
 * A template is a name, a shape, and builds. A tag points to one build, and sandboxes are restored from that build's
 * snapshot. While a newer build is being made the tag still points to the old one.
 */
import { DomainError, isDomainError } from "../errors.ts";
import type { MachineShape } from "../types.ts";
import { fromJson, textMap } from "./json-columns.ts";
import type { Ledger } from "./open.ts";
import { type SnapshotRecord, type SnapshotRow, toSnapshot } from "./snapshots.ts";

/** The tag of a reference that names none. */
export const defaultTag = "default";

export interface TemplateRecord {
  readonly id: string;
  /** Names besides its id. Clients are shown the first one. */
  readonly aliases: readonly string[];
  readonly public: boolean;
  readonly shape: MachineShape;
  /** Builds that succeeded, newest first. */
  readonly buildIds: readonly string[];
  readonly tags: readonly TemplateTag[];
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  /** Number of sandboxes that were ever made from it. */
  readonly spawnCount: number;
  readonly lastSpawnedAtMs: number | null;
}

export interface TemplateTag {
  readonly tag: string;
  readonly buildId: string;
  readonly assignedAtMs: number;
}

/** The defaults of processes in a template's sandboxes, unless the process or the sandbox has its own. */
export interface TemplateDefaults {
  readonly envs: Readonly<Record<string, string>>;
  readonly user: string;
  /** Empty: the user's home. */
  readonly workdir: string;
}

/** The source of a build tells whether the build is stale, and how to make it again. */
export interface BuildSource {
  /** A digest of the steps, their files and the parent's build. Equal revisions make equal builds. */
  readonly revision: string;
  readonly parentBuildId: string;
  /** The steps, in JSON. */
  readonly spec: string;
}

export interface ResolvedTemplate {
  /** The template, with the shape of this very build. */
  readonly template: TemplateRecord;
  readonly buildId: string;
  readonly defaults: TemplateDefaults;
  /** In any state. The restore refuses a quarantined snapshot by its id. */
  readonly snapshot: SnapshotRecord;
}

interface TemplateRow {
  readonly id: string;
  readonly public: number;
  readonly vcpu_count: number;
  readonly memory_mib: number;
  readonly disk_mib: number;
  readonly created_at_ms: number;
  readonly updated_at_ms: number;
  readonly spawn_count: number;
  readonly last_spawned_at_ms: number | null;
}

/** The columns of `template_builds` that sandboxes of the build need. */
interface BuildRow {
  readonly build_id: string;
  readonly envs: string;
  readonly default_user: string;
  readonly workdir: string;
  readonly vcpu_count: number | null;
  readonly memory_mib: number | null;
  readonly disk_mib: number | null;
}

const plainDefaults: TemplateDefaults = { envs: {}, user: "user", workdir: "" };

/**
 * Adds a template that has no build yet.
 * @throws already_exists when its id or one of its aliases means a template already
 */
export function insertTemplate(
  ledger: Ledger,
  { id, aliases, shape, public: isPublic }: Pick<TemplateRecord, "id" | "aliases" | "shape" | "public">,
): TemplateRecord {
  return ledger.writeDurably(() => {
    for (const name of [id, ...aliases]) {
      if (findTemplate(ledger, name)) throw new DomainError("already_exists", `template '${name}' exists already`);
    }
    ledger
      .statement(
        `insert into templates (id, public, vcpu_count, memory_mib, disk_mib, created_at_ms, updated_at_ms)
         values (:id, :public, :vcpuCount, :memoryMiB, :diskMiB, :nowMs, :nowMs)`,
      )
      .run({ id, public: isPublic ? 1 : 0, ...shape, nowMs: ledger.nowMs() });
    const name = ledger.statement(
      "insert into template_aliases (alias, template_id, position) values (:alias, :id, :position)",
    );
    for (const [position, alias] of aliases.entries()) name.run({ alias, id, position });
    return mustFind(ledger, id);
  });
}

/**
 * Adds a build that succeeded and points `tags` to it, in one transaction: sandboxes made before keep their snapshot,
 * sandboxes made after get the new one.
 * @throws not_found when the template does not exist; invalid_state when the snapshot is not ready; nothing is changed
 */
export function publishBuild(
  ledger: Ledger,
  build: {
    readonly id: string;
    readonly templateId: string;
    readonly snapshotId: string;
    readonly shape: MachineShape;
    readonly tags: readonly string[];
    /** Absent: no environment, the user `user`, and its home. */
    readonly defaults?: TemplateDefaults;
    readonly source?: BuildSource;
  },
): TemplateRecord {
  const { id, templateId, snapshotId, shape, tags, source, defaults = plainDefaults } = build;
  return ledger.writeDurably(() => {
    const nowMs = ledger.nowMs();
    const updated = ledger
      .statement(
        `update templates set updated_at_ms = :nowMs, vcpu_count = :vcpuCount, memory_mib = :memoryMiB,
                disk_mib = :diskMiB where id = :templateId`,
      )
      .run({ templateId, nowMs, ...shape });
    if (updated.changes !== 1) throw unknownTemplate(templateId);
    const added = ledger
      .statement(
        `insert into template_builds (id, template_id, snapshot_id, created_at_ms, envs, default_user, workdir,
                vcpu_count, memory_mib, disk_mib, source_revision, parent_build_id, spec)
         select :id, :templateId, id, :nowMs, :envs, :user, :workdir,
                :vcpuCount, :memoryMiB, :diskMiB, :revision, :parentBuildId, :spec
         from snapshots where id = :snapshotId and state = 'ready'`,
      )
      .run({
        id,
        templateId,
        snapshotId,
        nowMs,
        ...shape,
        ...defaults,
        envs: JSON.stringify(defaults.envs),
        ...(source ?? { revision: null, parentBuildId: null, spec: null }),
      });
    if (added.changes !== 1) throw new DomainError("invalid_state", `Snapshot ${snapshotId} is not ready`);
    const assign = ledger.statement(
      `insert into template_tags (template_id, tag, build_id, assigned_at_ms) values (:templateId, :tag, :id, :nowMs)
       on conflict do update set build_id = :id, assigned_at_ms = :nowMs`,
    );
    for (const tag of tags) assign.run({ templateId, tag, id, nowMs });
    return mustFind(ledger, templateId);
  });
}

/**
 * The build that a client means by `name` (id or alias) and `tag`.
 * @throws not_found, with E2B's own words for an unknown template and for an unknown tag
 */
export function resolveTemplate(ledger: Ledger, name: string, tag: string = defaultTag): ResolvedTemplate {
  const template = findTemplate(ledger, name);
  if (!template) throw unknownTemplate(name);
  const current = ledger
    .statement<SnapshotRow & BuildRow>(
      `select s.*, t.build_id, b.envs, b.default_user, b.workdir, b.vcpu_count, b.memory_mib, b.disk_mib
       from template_tags t
       join template_builds b on b.id = t.build_id join snapshots s on s.id = b.snapshot_id
       where t.template_id = :id and t.tag = :tag`,
    )
    .get({ id: template.id, tag });
  if (!current) throw new DomainError("not_found", `tag '${tag}' does not exist for template '${name}'`, { name, tag });
  const { build_id: buildId, default_user: user, workdir } = current;
  const envs = fromJson(textMap, current.envs, `template_builds.envs of ${buildId}`);
  const shape = {
    vcpuCount: current.vcpu_count ?? template.shape.vcpuCount,
    memoryMiB: current.memory_mib ?? template.shape.memoryMiB,
    diskMiB: current.disk_mib ?? template.shape.diskMiB,
  };
  const defaults = { envs, user, workdir };
  return { template: { ...template, shape }, buildId, defaults, snapshot: toSnapshot(current) };
}

/** The result of {@link resolveTemplate}, or undefined when it finds none. */
export function findCurrentBuild(ledger: Ledger, name: string, tag?: string): ResolvedTemplate | undefined {
  try {
    return resolveTemplate(ledger, name, tag);
  } catch (error) {
    if (isDomainError(error, "not_found")) return undefined;
    throw error;
  }
}

/** The template with this id, or else this alias. */
export function findTemplate(ledger: Ledger, name: string): TemplateRecord | undefined {
  const row = ledger
    .statement<TemplateRow>(
      `select * from templates where id = coalesce(
         (select id from templates where id = :name), (select template_id from template_aliases where alias = :name))`,
    )
    .get({ name });
  return row && toTemplate(ledger, row);
}

/** All templates, oldest first. */
export function listTemplates(ledger: Ledger): TemplateRecord[] {
  return ledger
    .statement<TemplateRow>("select * from templates order by created_at_ms, id")
    .all({})
    .map((row) => toTemplate(ledger, row));
}

/** The builds of a template that have damaged snapshots, each with the reason. */
export function listDamagedBuilds(ledger: Ledger, templateId: string): Map<string, string> {
  const rows = ledger
    .statement<{ id: string; snapshotId: string; reason: string }>(
      `select b.id, s.id as snapshotId, s.quarantine_reason as reason
       from template_builds b join snapshots s on s.id = b.snapshot_id
       where b.template_id = :templateId and s.state = 'quarantined'`,
    )
    .all({ templateId });
  return new Map(rows.map(({ id, snapshotId, reason }) => [id, `snapshot ${snapshotId}: ${reason}`]));
}

/** Counts a sandbox that was made from the template. A template that is gone meanwhile is ignored. */
export function recordSpawn(ledger: Ledger, templateId: string): void {
  ledger.write(() => {
    ledger
      .statement(
        "update templates set spawn_count = spawn_count + 1, last_spawned_at_ms = :nowMs where id = :templateId",
      )
      .run({ templateId, nowMs: ledger.nowMs() });
  });
}

function toTemplate(ledger: Ledger, row: TemplateRow): TemplateRecord {
  const { id } = row;
  const aliases = ledger
    .statement<{ alias: string }>("select alias from template_aliases where template_id = :id order by position")
    .all({ id });
  const builds = ledger
    .statement<{ id: string }>(
      "select id from template_builds where template_id = :id order by created_at_ms desc, rowid desc",
    )
    .all({ id });
  const tags = ledger
    .statement<TemplateTag>(
      `select tag, build_id as buildId, assigned_at_ms as assignedAtMs from template_tags
       where template_id = :id order by tag`,
    )
    .all({ id });
  return {
    id,
    aliases: aliases.map(({ alias }) => alias),
    public: row.public === 1,
    shape: { vcpuCount: row.vcpu_count, memoryMiB: row.memory_mib, diskMiB: row.disk_mib },
    buildIds: builds.map((build) => build.id),
    tags,
    createdAtMs: row.created_at_ms,
    updatedAtMs: row.updated_at_ms,
    spawnCount: row.spawn_count,
    lastSpawnedAtMs: row.last_spawned_at_ms,
  };
}

function mustFind(ledger: Ledger, id: string): TemplateRecord {
  const template = findTemplate(ledger, id);
  if (!template) throw unknownTemplate(id);
  return template;
}

function unknownTemplate(name: string): DomainError {
  return new DomainError("not_found", `template '${name}' not found`, { name });
}
