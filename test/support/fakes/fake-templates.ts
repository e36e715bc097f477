/** Fake templates: the real template service over the fake engine. Builds run in the real agent, on this host. */
import { mkdirSync, mkdtempSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { systemClock } from "../../../src/clock.ts";
import { newTemplateId } from "../../../src/e2b/ids.ts";
import { DomainError } from "../../../src/errors.ts";
import type { CapacityBudgets } from "../../../src/ledger/capacity.ts";
import { type Ledger, openLedger } from "../../../src/ledger/open.ts";
import { markSnapshotReady, registerSnapshot } from "../../../src/ledger/snapshots.ts";
import { insertTemplate, publishBuild } from "../../../src/ledger/templates.ts";
import { describeFile, publishSnapshot } from "../../../src/machine/snapshot-files.ts";
import { createMetrics, type Metrics } from "../../../src/metrics.ts";
import { TemplateBuilds } from "../../../src/template/build/builds.ts";
import type { ImageStore } from "../../../src/template/images/store.ts";
import { TemplateService } from "../../../src/template/service.ts";
import { noTrust } from "../../../src/template/trust/host-trust.ts";
import { UploadCache } from "../../../src/template/uploads/cache.ts";
import type { MachineShape, SpanName } from "../../../src/types.ts";
import { FakeDriver, FakeHost } from "./fake-driver.ts";
import type { FakeGuest } from "./fake-guest.ts";

export const shape: MachineShape = { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 };
const roomy: CapacityBudgets = { vcpuCount: 100, memoryMiB: 100_000, diskMiB: 1_000_000, sandboxes: 100 };

export interface FakeTemplatesOptions {
  /** Default: a guest that never answers, for tests that start no build. */
  readonly guest?: FakeGuest;
  readonly budgets?: CapacityBudgets;
  /** Default: no image can be had. */
  readonly images?: Pick<ImageStore, "prepare">;
  /** Default: no step is kept. */
  readonly layerBudgetBytes?: number;
}

export interface FakeTemplates extends AsyncDisposable {
  readonly folder: string;
  readonly snapshotsFolder: string;
  readonly ledger: Ledger;
  readonly host: FakeHost;
  readonly templates: TemplateService;
  readonly builds: TemplateBuilds;
  readonly spans: SpanName[];
  readonly metrics: Metrics;
  /** Runs while the deletion of a template waits for kills; does nothing unless a test says so. */
  settleKills: () => Promise<void>;
  /** The builds of another daemon over the same ledger, machines and folders. */
  reopen(): TemplateBuilds;
}

/** `base` has an id and a tag, and a snapshot that only {@link writeBaseSnapshot} makes real. */
export function openFakeTemplates(options: FakeTemplatesOptions = {}): FakeTemplates {
  const folder = mkdtempSync(join(tmpdir(), "firkin-templates-"));
  const [snapshotsFolder, uploadsFolder] = [join(folder, "snapshots"), join(folder, "uploads")];
  for (const path of [snapshotsFolder, uploadsFolder]) mkdirSync(path);
  const ledger = openLedger(":memory:");
  publishBase(ledger, join(snapshotsFolder, "base"));
  const host = new FakeHost();
  const { guest = { kind: "silent" }, budgets = roomy, images = noImages, layerBudgetBytes = 0 } = options;
  const driver = new FakeDriver({ host, machinesFolder: join(folder, "machines"), guest });
  const uploads = new UploadCache({ folder: uploadsFolder, secret: "secret", clock: systemClock });
  const spans: SpanName[] = [];
  const metrics = createMetrics();
  const admitDisk = async () => {};
  const newBuilds = () =>
    new TemplateBuilds({
      reach: () => {},
      metrics,
      ledger,
      driver,
      budgets,
      snapshotsFolder,
      uploads,
      images,
      layerBudgetBytes,
      admitDisk,
      clock: systemClock,
      markerPath: join(folder, "marker"),
      log: pino({ level: "silent" }),
      assets: { kernel: "/kernel", kernelVersion: "6", initramfs: "/initramfs", baseDisk: "/disk", agent: "/agent" },
      trust: noTrust,
      wantedTemplates: { refuseUnmade: () => {} },
      recordSample: (span) => void spans.push(span),
    });
  const builds = newBuilds();
  const settleKills = () => fake.settleKills();
  const fake: FakeTemplates = {
    folder,
    snapshotsFolder,
    ledger,
    host,
    builds,
    spans,
    metrics,
    templates: new TemplateService({ ledger, builds, uploads, newTemplateId, admitDisk, settleKills }),
    settleKills: async () => {},
    reopen: newBuilds,
    async [Symbol.asyncDispose]() {
      await builds.close();
      for (const machine of host.machines.values()) machine.end({ reason: "terminated" });
      ledger.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return fake;
}

const noImages: Pick<ImageStore, "prepare"> = {
  prepare: async ({ reference }) => {
    throw new DomainError(
      "failed_precondition",
      `image '${reference}' not found: the image or tag does not exist in the registry`,
    );
  },
};

function publishBase(ledger: Ledger, snapshotFolder: string): void {
  const id = "base-snapshot";
  registerSnapshot(ledger, { id, kind: "template", logicalId: "base", folder: snapshotFolder, reason: null });
  markSnapshotReady(ledger, id, {
    engine: "qemu",
    engineVersion: "1",
    acceleration: "none",
    cpuModel: "none",
    memoryBytes: 1,
    devicesBytes: 1,
    diskBytes: 1,
    manifestSha256: "00",
  });
  insertTemplate(ledger, { id: "basetemplate", aliases: ["base"], shape, public: true });
  const defaults = { envs: {}, user: "root", workdir: "" };
  publishBuild(ledger, {
    id: "base-build",
    templateId: "basetemplate",
    snapshotId: id,
    shape,
    tags: ["default"],
    defaults,
  });
}

/** The files of `base`'s snapshot, so that a fake machine can be restored from them. */
export async function writeBaseSnapshot({ snapshotsFolder }: FakeTemplates): Promise<void> {
  const staging = join(snapshotsFolder, "base.staging");
  await mkdir(staging);
  for (const name of ["memory", "devices", "disk"]) await writeFile(join(staging, name), name);
  const [memory, devices, disk] = await Promise.all(["memory", "devices", "disk"].map((n) => describeFile(staging, n)));
  if (!memory || !devices || !disk) throw new Error("three files were described");
  await publishSnapshot(staging, join(snapshotsFolder, "base"), {
    formatVersion: 2,
    engine: "qemu",
    engineVersion: "1.0.0",
    acceleration: "none",
    cpuModel: "none",
    cpuClass: "none",
    shape,
    bootId: "boot",
    createdAtMs: 0,
    parents: [],
    files: { memory, devices, disk },
    lowerLayers: [],
    machine: {},
  });
}
