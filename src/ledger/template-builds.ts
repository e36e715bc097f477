/**
 * Build jobs are the builds that clients asked for. A build that succeeds is published (`templates.ts`) in the
 * transaction that makes its job ready.
 */
import { z } from "zod";
import { DomainError } from "../errors.ts";
import type { MachineRecord } from "../types.ts";
import { fromJson, machineFromJson, machineToJson } from "./json-columns.ts";
import { type Lifecycle, moveRow } from "./moves.ts";
import type { Ledger } from "./open.ts";

export type BuildState =
  /** The client asked for it and uploads its files. */
  | "waiting"
  /** Owns a reservation, a machine and a snapshot, as far as they are written down. */
  | "building"
  /** Published: a row of the same id is in `template_builds`. */
  | "ready"
  /** Failed, with its reason. */
  | "error";

const lifecycle: Lifecycle<BuildState> = {
  table: "template_build_jobs",
  nextStates: {
    waiting: ["building", "error"],
    building: ["ready", "error"],
    ready: [],
    error: [],
  },
};
export type BuildLogLevel = "debug" | "info" | "warn" | "error";

export interface BuildLogEntry {
  readonly atMs: number;
  readonly level: BuildLogLevel;
  readonly message: string;
  /** `base`, the 1-based number of a step, or `finalize`. */
  readonly step?: string | undefined;
}

/** The failure of a build, as clients see it. */
export interface BuildFailure {
  readonly message: string;
  readonly step?: string | undefined;
  /** The last log entries of the step that failed. */
  readonly logEntries: readonly BuildLogEntry[];
}

export interface BuildJob {
  readonly id: string;
  readonly templateId: string;
  readonly state: BuildState;
  readonly tags: readonly string[];
  /** Null: as the template from which it is built. */
  readonly vcpuCount: number | null;
  readonly memoryMiB: number | null;
  /** Free disk that the build must leave. Null: the client asked for none. */
  readonly minFreeDiskMiB: number | null;
  readonly machine: MachineRecord | null;
  readonly snapshotId: string | null;
  readonly reservationId: string | null;
  /** Never null in state `error`. */
  readonly reason: BuildFailure | null;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly finishedAtMs: number | null;
}

export type NewBuildJob = Pick<BuildJob, "id" | "templateId" | "tags" | "vcpuCount" | "memoryMiB" | "minFreeDiskMiB">;
/** Belongings of an unfinished build, written down so that a later daemon finds them. */
export type BuildPossession = Partial<Pick<BuildJob, "machine" | "snapshotId" | "reservationId">>;

interface JobRow {
  readonly id: string;
  readonly template_id: string;
  readonly state: BuildState;
  readonly tags: string;
  readonly vcpu_count: number | null;
  readonly memory_mib: number | null;
  readonly min_free_disk_mib: number | null;
  readonly machine: string | null;
  readonly snapshot_id: string | null;
  readonly reservation_id: string | null;
  readonly reason: string | null;
  readonly created_at_ms: number;
  readonly updated_at_ms: number;
  readonly finished_at_ms: number | null;
}

const tagList = z.array(z.string());
const logEntries: z.ZodType<BuildLogEntry[]> = z.array(
  z.object({
    atMs: z.number(),
    level: z.enum(["debug", "info", "warn", "error"]),
    message: z.string(),
    step: z.string().optional(),
  }),
);
const failure: z.ZodType<BuildFailure> = z.object({
  message: z.string(),
  step: z.string().optional(),
  logEntries,
});

/** All columns but the log, which only its readers need. */
const columns = `id, template_id, state, tags, vcpu_count, memory_mib, min_free_disk_mib, machine, snapshot_id,
  reservation_id, reason, created_at_ms, updated_at_ms, finished_at_ms`;
/** A client that does not start its build within a day has forgotten it. */
const longestWaitMs = 24 * 3_600_000;

/** Adds a build in state `waiting`, and forgets waiting builds that no client started within a day. */
export function insertBuildJob(ledger: Ledger, job: NewBuildJob): BuildJob {
  const { id, templateId, tags, vcpuCount, memoryMiB, minFreeDiskMiB } = job;
  return ledger.write(() => {
    const nowMs = ledger.nowMs();
    ledger
      .statement("delete from template_build_jobs where state = 'waiting' and created_at_ms < :before")
      .run({ before: nowMs - longestWaitMs });
    ledger
      .statement(
        `insert into template_build_jobs
           (id, template_id, state, tags, vcpu_count, memory_mib, min_free_disk_mib, created_at_ms, updated_at_ms)
         values (:id, :templateId, 'waiting', :tags, :vcpuCount, :memoryMiB, :minFreeDiskMiB, :nowMs, :nowMs)`,
      )
      .run({ id, templateId, tags: JSON.stringify(tags), vcpuCount, memoryMiB, minFreeDiskMiB, nowMs });
    return mustFind(ledger, id);
  });
}

/** @throws failed_precondition, in E2B's words, when the build is not waiting any more */
export function startBuildJob(ledger: Ledger, id: string): BuildJob {
  return ledger.write(() => {
    const set = { updated_at_ms: ledger.nowMs() };
    const isMoved = moveRow(ledger, lifecycle, { id, from: ["waiting"], to: "building", set });
    if (!isMoved) throw new DomainError("failed_precondition", "build is not in waiting state", { id });
    return mustFind(ledger, id);
  });
}

/** Writes down the belongings of an unfinished build. A belonging that is absent stays as it was. */
export function noteBuildPossession(ledger: Ledger, id: string, owned: BuildPossession): void {
  const set = {
    machine: owned.machine ? machineToJson(owned.machine) : undefined,
    snapshot_id: owned.snapshotId ?? undefined,
    reservation_id: owned.reservationId ?? undefined,
    updated_at_ms: ledger.nowMs(),
  };
  moveRow(ledger, lifecycle, { id, from: ["building"], to: "building", set });
}

/**
 * Makes a build ready. Call it in one transaction with `publishBuild`. @throws invalid_state when it is not building
 */
export function finishBuildJob(ledger: Ledger, id: string, log: readonly BuildLogEntry[]): void {
  const nowMs = ledger.nowMs();
  const set = { log: JSON.stringify(log), updated_at_ms: nowMs, finished_at_ms: nowMs };
  if (moveRow(ledger, lifecycle, { id, from: ["building"], to: "ready", set })) return;
  throw new DomainError("invalid_state", `build ${id} is not under way`, { id });
}

/** Fails a build that waits or is building. A build that has ended already stays as it is. */
export function failBuildJob(ledger: Ledger, id: string, reason: BuildFailure, log: readonly BuildLogEntry[]): void {
  const nowMs = ledger.nowMs();
  const ended = { log: JSON.stringify(log), updated_at_ms: nowMs, finished_at_ms: nowMs };
  const set = { ...ended, reason: JSON.stringify(reason) };
  ledger.writeDurably(() => moveRow(ledger, lifecycle, { id, from: ["waiting", "building"], to: "error", set }));
}

export function findBuildJob(ledger: Ledger, id: string): BuildJob | undefined {
  const row = ledger.statement<JobRow>(`select ${columns} from template_build_jobs where id = :id`).get({ id });
  return row && toJob(row);
}

/** The log of a build that has ended; empty before. */
export function readBuildLog(ledger: Ledger, id: string): BuildLogEntry[] {
  const row = ledger
    .statement<{ log: string | null }>("select log from template_build_jobs where id = :id")
    .get({ id });
  return row?.log ? fromJson(logEntries, row.log, `template_build_jobs.log of ${id}`) : [];
}

/** Builds in state `building`, oldest first. */
export function listBuildingJobs(ledger: Ledger): BuildJob[] {
  return ledger
    .statement<JobRow>(`select ${columns} from template_build_jobs where state = 'building' order by created_at_ms, id`)
    .all({})
    .map(toJob);
}

/** The builds of one template, newest first. */
export function listBuildJobs(ledger: Ledger, templateId: string): BuildJob[] {
  return ledger
    .statement<JobRow>(
      `select ${columns} from template_build_jobs where template_id = :templateId order by created_at_ms desc, id desc`,
    )
    .all({ templateId })
    .map(toJob);
}

/** A build that can be made again and that a tag points to. */
export interface SourcedBuild {
  readonly id: string;
  readonly templateId: string;
  readonly tags: readonly string[];
  readonly parentBuildId: string;
  readonly revision: string;
  /** Its snapshot is damaged, so no sandbox can be made from it meanwhile. */
  readonly damaged: boolean;
  /** The steps as they were published, in JSON. */
  readonly spec: string;
  readonly vcpuCount: number | null;
  readonly memoryMiB: number | null;
  readonly minFreeDiskMiB: number | null;
  readonly createdAtMs: number;
}

/** The steps that made a build, in JSON; undefined for a build without steps. */
export function findBuildSpec(ledger: Ledger, buildId: string): string | undefined {
  return ledger
    .statement<{ spec: string }>("select spec from template_builds where id = :buildId and spec is not null")
    .get({ buildId })?.spec;
}

/** Oldest first. */
export function listSourcedBuilds(ledger: Ledger): SourcedBuild[] {
  return ledger
    .statement<Omit<SourcedBuild, "tags" | "damaged"> & { tags: string; damaged: number }>(
      `select b.id, b.template_id as templateId, json_group_array(t.tag) as tags, b.parent_build_id as parentBuildId,
              b.source_revision as revision, b.spec, b.vcpu_count as vcpuCount, b.memory_mib as memoryMiB,
              j.min_free_disk_mib as minFreeDiskMiB, b.created_at_ms as createdAtMs,
              s.state = 'quarantined' as damaged
       from template_builds b join template_tags t on t.build_id = b.id join snapshots s on s.id = b.snapshot_id
       left join template_build_jobs j on j.id = b.id
       where b.spec is not null group by b.id order by b.created_at_ms, b.id`,
    )
    .all({})
    .map((row) => ({
      ...row,
      damaged: row.damaged === 1,
      tags: fromJson(tagList, row.tags, `tags of build ${row.id}`),
    }));
}

function toJob(row: JobRow): BuildJob {
  const column = (name: string) => `template_build_jobs.${name} of ${row.id}`;
  return {
    id: row.id,
    templateId: row.template_id,
    state: row.state,
    tags: fromJson(tagList, row.tags, column("tags")),
    vcpuCount: row.vcpu_count,
    memoryMiB: row.memory_mib,
    minFreeDiskMiB: row.min_free_disk_mib,
    machine: machineFromJson(row.machine, column("machine")),
    snapshotId: row.snapshot_id,
    reservationId: row.reservation_id,
    reason: row.reason === null ? null : fromJson(failure, row.reason, column("reason")),
    createdAtMs: row.created_at_ms,
    updatedAtMs: row.updated_at_ms,
    finishedAtMs: row.finished_at_ms,
  };
}

function mustFind(ledger: Ledger, id: string): BuildJob {
  const job = findBuildJob(ledger, id);
  if (!job) throw new DomainError("not_found", `there is no build ${id}`, { id });
  return job;
}
