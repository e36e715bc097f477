/** The templates' face towards the routes. */
import type { Readable } from "node:stream";
import type { BuildFailure, BuildLogEntry, BuildState } from "../ledger/template-builds.ts";
import type { TemplateRecord, TemplateTag } from "../ledger/templates.ts";
import type { MachineShape } from "../types.ts";
import type { RawStep } from "./build/spec.ts";

export type BuildLogLine = BuildLogEntry;

export interface RequestBuild {
  readonly name: string;
  /** Empty: the default one. */
  readonly tags: readonly string[];
  /** Null: as the template it will be built from. */
  readonly vcpuCount: number | null;
  readonly memoryMiB: number | null;
  /** That the build must leave of its disk, or fail. Null: whatever is left. */
  readonly minFreeDiskMiB: number | null;
}

export interface StartBuild {
  /** Undefined: the client named none. */
  readonly from: { readonly name: string; readonly tag: string | undefined } | undefined;
  /** As the client wrote it; images are not supported. */
  readonly fromImage: string | undefined;
  readonly steps: readonly RawStep[];
  readonly startCommand: string | undefined;
  readonly readyCommand: string | undefined;
}

/** A build of a template, whatever became of it. */
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
  /** Newest first, failed ones too. */
  readonly builds: readonly BuildView[];
}

export interface Templates {
  /** Names a build that is to come, with its template if that is new. @throws permission_denied (`base`). */
  requestBuild(request: RequestBuild): { template: TemplateRecord; buildId: string; tags: readonly string[] };
  /** @throws invalid_argument, failed_precondition, not_found, unsupported, capacity_exhausted, disk_pressure, not_ready. */
  startBuild(templateId: string, buildId: string, request: StartBuild): Promise<void>;
  /** @throws invalid_argument in E2B's words when there is no such build. */
  getBuild(templateId: string, buildId: string): BuildView;
  /** What it said so far. */
  buildLog(buildId: string): readonly BuildLogLine[];
  /** Oldest first. Snapshots of sandboxes, which are templates too, have a list of their own. */
  list(): TemplateView[];
  /** @throws not_found. */
  get(name: string): TemplateView;
  /** @throws not_found, failed_precondition while it is in use, permission_denied (`base`). */
  remove(name: string): Promise<void>;
  /** @throws not_found. */
  setPublic(name: string, isPublic: boolean): TemplateRecord;
  /** @returns the build that they now point to. @throws not_found. */
  assignTags(name: string, from: string | undefined, tags: readonly string[]): string;
  /** @throws failed_precondition for the default one, not_found. */
  removeTags(name: string, tags: readonly string[]): Promise<void>;
  /** @throws not_found. */
  tags(name: string): readonly TemplateTag[];
  /** Whether an archive is there, and the token that allows to upload it. @throws invalid_argument, not_found. */
  offerUpload(templateId: string, hash: string): Promise<{ present: boolean; token: string }>;
  /** @throws permission_denied (token), invalid_argument (length), disk_pressure. */
  receiveUpload(hash: string, token: string, body: Readable, lengthBytes: number): Promise<void>;
}
