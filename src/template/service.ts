/**
 * The template service, which clients manage templates through: the ledger's rows, the builds under way, and the
 * uploads. The files beside it compose the rooms of this layer.
 */
import { randomUUID } from "node:crypto";
import type { Readable } from "node:stream";
import { DomainError } from "../errors.ts";
import type { Ledger } from "../ledger/open.ts";
import { isSandboxSnapshot } from "../ledger/sandbox-snapshots.ts";
import {
  type BuildJob,
  type BuildLogEntry,
  findBuildJob,
  insertBuildJob,
  listBuildJobs,
} from "../ledger/template-builds.ts";
import {
  assignTags,
  deleteTemplate,
  refuseTemplateInUse,
  removeTags,
  setTemplatePublic,
} from "../ledger/template-upkeep.ts";
import {
  defaultTag,
  findTemplate,
  insertTemplate,
  listDamagedBuilds,
  listTemplates,
  type TemplateRecord,
  type TemplateTag,
} from "../ledger/templates.ts";
import type { MachineShape } from "../types.ts";
import { codeInterpreterAlias } from "./base/code-interpreter.ts";
import { baseAlias } from "./base/template.ts";
import type { TemplateBuilds } from "./build/builds.ts";
import { parseSteps } from "./build/spec.ts";
import { parseLogin } from "./registry/credentials.ts";
import type { BuildRequest, BuildStartRequest, BuildView, Templates, TemplateView } from "./templates.ts";
import type { UploadCache } from "./uploads/cache.ts";

export interface TemplateServiceDependencies {
  readonly ledger: Ledger;
  readonly builds: TemplateBuilds;
  readonly uploads: UploadCache;
  readonly newTemplateId: () => string;
  /** @throws DomainError `disk_pressure` while there is not enough free disk for `work`. */
  readonly admitDisk: (work: string) => Promise<void>;
  /** Waits a short while until sandboxes that were killed are gone. */
  readonly settleKills: () => Promise<void>;
}

/** The shape of a template before its first build. */
const shapeToCome: MachineShape = { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 };

export class TemplateService implements Templates {
  readonly #deps: TemplateServiceDependencies;

  constructor(deps: TemplateServiceDependencies) {
    this.#deps = deps;
  }

  requestBuild(request: BuildRequest): { template: TemplateRecord; buildId: string; tags: readonly string[] } {
    const { ledger, newTemplateId } = this.#deps;
    const { name, vcpuCount, memoryMiB, minFreeDiskMiB } = request;
    const tags = request.tags.length > 0 ? [...new Set(request.tags)] : [defaultTag];
    const known = findTemplate(ledger, name);
    refuseOwn(known, name, "choose another name");
    return ledger.writeDurably(() => {
      const template = known ?? this.#newTemplate(newTemplateId(), request);
      const buildId = randomUUID();
      const asked = { vcpuCount, memoryMiB, minFreeDiskMiB };
      insertBuildJob(ledger, { id: buildId, templateId: template.id, tags, ...asked });
      return { template, buildId, tags };
    });
  }

  async startBuild(templateId: string, buildId: string, request: BuildStartRequest): Promise<void> {
    const { builds } = this.#deps;
    const job = this.#job(templateId, buildId);
    if (job.state !== "waiting") throw new DomainError("failed_precondition", "build is not in waiting state");
    const { from, login: sent, startCommand, readyCommand, steps } = request;
    const login = sent && parseLogin(sent);
    const firstForced = steps.findIndex(({ force }) => force === true);
    const forcedFrom = request.force ? -1 : firstForced < 0 ? steps.length : firstForced;
    await builds.start(job, { from, steps: parseSteps(steps), startCommand, readyCommand }, { login, forcedFrom });
  }

  getBuild(templateId: string, buildId: string): BuildView {
    const job = this.#job(templateId, buildId);
    return viewOf(job, this.#template(job.templateId));
  }

  async cancelBuild(templateId: string, buildId: string): Promise<void> {
    await this.#deps.builds.cancel(this.#job(templateId, buildId));
  }

  pruneBuildCache(): Promise<{ layers: number; sizeBytes: number }> {
    return this.#deps.builds.pruneLayers();
  }

  buildLog(buildId: string): readonly BuildLogEntry[] {
    return this.#deps.builds.log(buildId);
  }

  list(): TemplateView[] {
    const { ledger } = this.#deps;
    return listTemplates(ledger)
      .filter(({ id }) => !isSandboxSnapshot(ledger, id))
      .map((template) => this.#view(template));
  }

  get(name: string): TemplateView {
    return this.#view(this.#template(name));
  }

  async remove(name: string): Promise<void> {
    const { ledger, builds, settleKills } = this.#deps;
    refuseOwn(findTemplate(ledger, name), name, "it cannot be deleted");
    await settleKills();
    refuseTemplateInUse(ledger, name);
    const { id } = this.#template(name);
    await Promise.all(listBuildJobs(ledger, id).map((job) => builds.cancel(job)));
    deleteTemplate(ledger, name);
    await builds.collect();
  }

  setPublic(name: string, isPublic: boolean): TemplateRecord {
    return setTemplatePublic(this.#deps.ledger, name, isPublic);
  }

  assignTags(name: string, from: string | undefined, tags: readonly string[]): string {
    return assignTags(this.#deps.ledger, name, from ?? defaultTag, tags);
  }

  async removeTags(name: string, tags: readonly string[]): Promise<void> {
    removeTags(this.#deps.ledger, name, tags);
    await this.#deps.builds.collect();
  }

  tags(name: string): readonly TemplateTag[] {
    return this.#template(name).tags;
  }

  async offerUpload(templateId: string, hash: string): Promise<{ present: boolean; token: string }> {
    const { uploads } = this.#deps;
    this.#template(templateId);
    return { present: await uploads.has(hash), token: uploads.token(hash) };
  }

  async receiveUpload(hash: string, token: string, body: Readable, lengthBytes: number): Promise<void> {
    const { uploads, admitDisk } = this.#deps;
    uploads.checkToken(hash, token);
    await admitDisk("take an upload");
    await uploads.receive(hash, body, lengthBytes);
  }

  #newTemplate(id: string, { name, vcpuCount, memoryMiB }: BuildRequest): TemplateRecord {
    const shape = {
      ...shapeToCome,
      ...(vcpuCount !== null && { vcpuCount }),
      ...(memoryMiB !== null && { memoryMiB }),
    };
    return insertTemplate(this.#deps.ledger, { id, aliases: [name], shape, public: false });
  }

  #template(name: string): TemplateRecord {
    const template = findTemplate(this.#deps.ledger, name);
    if (!template) throw new DomainError("not_found", `template '${name}' not found`, { name });
    return template;
  }

  #job(templateId: string, buildId: string): BuildJob {
    const job = findBuildJob(this.#deps.ledger, buildId);
    // E2B answers 400, not 404.
    if (job?.templateId === templateId) return job;
    throw new DomainError("invalid_argument", `Build '${buildId}' not found`);
  }

  #view(template: TemplateRecord): TemplateView {
    const jobs = listBuildJobs(this.#deps.ledger, template.id).map((job) => viewOf(job, template));
    const asked = new Set(jobs.map(({ id }) => id));
    // The builds of `base` have no job, because the daemon makes them without a request.
    const own = template.buildIds.filter((id) => !asked.has(id)).map((id) => ownBuild(id, template));
    const damaged = listDamagedBuilds(this.#deps.ledger, template.id);
    const builds = [...jobs, ...own].sort((one, other) => other.createdAtMs - one.createdAtMs);
    return { template, builds: builds.map((build) => damagedView(build, damaged.get(build.id))) };
  }
}

/** Refuses to change a template that the daemon makes by itself. */
function refuseOwn(template: TemplateRecord | undefined, name: string, advice: string): void {
  const own = [baseAlias, codeInterpreterAlias].find((alias) => name === alias || template?.aliases.includes(alias));
  if (own === undefined) return;
  throw new DomainError("permission_denied", `template '${own}' is made by the daemon: ${advice}`, { name });
}

function viewOf(job: BuildJob, template: TemplateRecord): BuildView {
  const { id, templateId, state, reason, createdAtMs, updatedAtMs, finishedAtMs } = job;
  const shape = {
    vcpuCount: job.vcpuCount ?? template.shape.vcpuCount,
    memoryMiB: job.memoryMiB ?? template.shape.memoryMiB,
    diskMiB: template.shape.diskMiB,
  };
  return { id, templateId, state, reason, shape, createdAtMs, updatedAtMs, finishedAtMs };
}

/** A build that was ready and whose snapshot is damaged now shows as one that failed. */
function damagedView(build: BuildView, why: string | undefined): BuildView {
  return why === undefined ? build : { ...build, state: "error", reason: { message: why, logEntries: [] } };
}

function ownBuild(id: string, { id: templateId, shape, updatedAtMs }: TemplateRecord): BuildView {
  const times = { createdAtMs: updatedAtMs, updatedAtMs, finishedAtMs: updatedAtMs };
  return { id, templateId, state: "ready", reason: null, shape, ...times };
}
