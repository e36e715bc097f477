/** The interface between the routes and the templates. */
import type { Readable } from "node:stream";
import type { BuildFailure, BuildLogEntry, BuildState } from "../ledger/template-builds.ts";
import type { TemplateRecord, TemplateTag } from "../ledger/templates.ts";
import type { MachineShape } from "../types.ts";
import type { BuildOrigin, RawStep } from "./build/spec.ts";

export type { BuildOrigin } from "./build/spec.ts";
export type BuildLogLine = BuildLogEntry;

export interface BuildRequest {
  readonly name: string;
  /** Empty: the default tag. */
  readonly tags: readonly string[];
  /** Null: the value of the template that it is built from. */
  readonly vcpuCount: number | null;
  readonly memoryMiB: number | null;
  /** Free disk that the build must leave, or it fails. Null: no lower bound. */
  readonly minFreeDiskMiB: number | null;
}

export interface BuildStartRequest {
  readonly from: BuildOrigin;
  /** The login of the image's registry, as the client sent it. */
  readonly login: object | undefined;
  /** The parent is taken anew, and every step runs. */
  readonly force: boolean;
  readonly steps: readonly RawStep[];
  readonly startCommand: string | undefined;
  readonly readyCommand: string | undefined;
}

/** A build of a template, in any state. */
export interface BuildView {
  readonly id: string;
  readonly templateId: string;
  readonly state: BuildState;
  readonly reason: BuildFailure | null;
  readonly shape: MachineShape;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly finishedAtMs: number | null;
}

export interface TemplateView {
  readonly template: TemplateRecord;
  /** Newest first, with failed builds. */
  readonly builds: readonly BuildView[];
}

export interface Templates {
  /** Registers a build to be started later, and its template if that is new. @throws permission_denied (`base`). */
  requestBuild(request: BuildRequest): { template: TemplateRecord; buildId: string; tags: readonly string[] };
  /**
   * @throws invalid_argument, failed_precondition, not_found, unsupported, capacity_exhausted, disk_pressure,
   *   not_ready.
   */
  startBuild(templateId: string, buildId: string, request: BuildStartRequest): Promise<void>;
  /** @throws invalid_argument in E2B's words when there is no such build. */
  getBuild(templateId: string, buildId: string): BuildView;
  /**
   * Ends a build that waits or is under way; one that has ended stays as it is.
   * @throws invalid_argument as {@link getBuild}.
   */
  cancelBuild(templateId: string, buildId: string): Promise<void>;
  /** Forgets the snapshots of all steps. @returns how many there were, and their size. */
  pruneBuildCache(): Promise<{ layers: number; sizeBytes: number }>;
  /** The log of a build up to now. */
  buildLog(buildId: string): readonly BuildLogLine[];
  /** Templates, oldest first, without snapshots of sandboxes, which have a list of their own. */
  list(): TemplateView[];
  /** @throws not_found. */
  get(name: string): TemplateView;
  /**
   * Also ends the builds of the template that wait or are under way.
   * @throws not_found, failed_precondition while sandboxes use the template, permission_denied (`base`).
   */
  remove(name: string): Promise<void>;
  /** @throws not_found. */
  setPublic(name: string, isPublic: boolean): TemplateRecord;
  /** @returns the build that the tags point to now. @throws not_found. */
  assignTags(name: string, from: string | undefined, tags: readonly string[]): string;
  /** @throws failed_precondition for the default tag, not_found. */
  removeTags(name: string, tags: readonly string[]): Promise<void>;
  /** @throws not_found. */
  tags(name: string): readonly TemplateTag[];
  /** Whether an archive is present, and the token that allows its upload. @throws invalid_argument, not_found. */
  offerUpload(templateId: string, hash: string): Promise<{ present: boolean; token: string }>;
  /** @throws permission_denied (token), invalid_argument (length), disk_pressure. */
  receiveUpload(hash: string, token: string, body: Readable, lengthBytes: number): Promise<void>;
}
