import { randomUUID } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { expect, test } from "vitest";
import { markSnapshotReady, registerSnapshot } from "../../../src/ledger/snapshots.ts";
import { insertBuildJob, listBuildJobs } from "../../../src/ledger/template-builds.ts";
import { insertTemplate, publishBuild, resolveTemplate } from "../../../src/ledger/templates.ts";
import { rebuildStale } from "../../../src/template/build/rebuild.ts";
import type { ImageOrder } from "../../../src/template/images/store.ts";
import { facts } from "../../ledger/support.ts";
import { type FakeTemplates, openFakeTemplates, shape, writeBaseSnapshot } from "../../support/fakes/fake-templates.ts";
import { localAgent } from "../../support/guest/local-agent.ts";

/** A template built from another, with one step. */
async function build({ ledger, builds }: FakeTemplates, name: string, from: string, command = "true"): Promise<string> {
  insertTemplate(ledger, { id: `id-${name}`, aliases: [name], shape, public: false });
  const asked = { vcpuCount: null, memoryMiB: null, minFreeDiskMiB: 1, tags: ["default", "v1"] };
  const job = insertBuildJob(ledger, { id: randomUUID(), templateId: `id-${name}`, ...asked });
  const steps = [{ type: "RUN" as const, command, user: "" }];
  const commands = { startCommand: undefined, readyCommand: undefined };
  await builds.start(job, { from: { kind: "template", name: from, tag: undefined }, steps, ...commands });
  await builds.finished(job.id);
  return job.id;
}

/** Gives `base` a new build, as a daemon does that finds other ingredients. */
function renewBase({ ledger, snapshotsFolder }: FakeTemplates): void {
  const folder = join(snapshotsFolder, "base");
  ledger.statement("update snapshots set folder = folder || '.old' where id = 'base-snapshot'").run({});
  registerSnapshot(ledger, { id: "renewed", kind: "template", logicalId: "basetemplate", folder, reason: null });
  markSnapshotReady(ledger, "renewed", facts);
  const defaults = { envs: {}, user: "root", workdir: "" };
  publishBuild(ledger, {
    id: "base-2",
    templateId: "basetemplate",
    snapshotId: "renewed",
    shape,
    tags: ["default"],
    defaults,
  });
}

async function open(): Promise<FakeTemplates> {
  const fake = openFakeTemplates({ guest: { kind: "agent", command: localAgent() } });
  await writeBaseSnapshot(fake);
  return fake;
}

function refresh({ ledger, builds }: FakeTemplates, signal = new AbortController().signal): Promise<void> {
  const log = pino({ level: "silent" });
  return rebuildStale({ ledger, builds, log, maxAgeMs: undefined, tried: new Set() }, signal);
}

test("a template whose parent was built again is built again, and so are its own children", async () => {
  await using fake = await open();
  const [parent, child] = [await build(fake, "parent", "base"), await build(fake, "child", "parent")];
  await refresh(fake);
  expect(resolveTemplate(fake.ledger, "child").buildId).toBe(child);
  renewBase(fake);
  await refresh(fake);
  const [newParent, newChild] = ["parent", "child"].map((name) => resolveTemplate(fake.ledger, name, "v1").buildId);
  expect(newParent).not.toBe(parent);
  expect(newChild).not.toBe(child);
  expect(resolveTemplate(fake.ledger, "parent").buildId).toBe(newParent);
  const jobs = listBuildJobs(fake.ledger, "id-child");
  expect(jobs).toMatchObject(Array(2).fill({ state: "ready", minFreeDiskMiB: 1 }));
  // The snapshots of base, parent and child; the old ones are gone.
  expect(await readdir(fake.snapshotsFolder)).toHaveLength(3);
});

test("the old build serves while the new one is made, and also after that fails", async () => {
  await using fake = await open();
  const gate = join(fake.folder, "gate");
  const old = await build(fake, "gated", "base", `test ! -e ${gate} && touch ${gate}`);
  renewBase(fake);
  await refresh(fake);
  expect(resolveTemplate(fake.ledger, "gated")).toMatchObject({ buildId: old, snapshot: { state: "ready" } });
  expect(
    listBuildJobs(fake.ledger, "id-gated")
      .map(({ state }) => state)
      .sort(),
  ).toEqual(["error", "ready"]);
});

test("a daemon that stops does not wait for a rebuild", async () => {
  await using fake = await open();
  const gate = join(fake.folder, "gate");
  await build(fake, "slow", "base", `test ! -e ${gate} || sleep 600; touch ${gate}`);
  renewBase(fake);
  const stop = new AbortController();
  const refreshing = refresh(fake, stop.signal);
  await expect.poll(() => fake.host.machines.size).toBe(1);
  stop.abort();
  await refreshing;
  expect(fake.host.machines.size).toBe(1);
});

test("an old template from a public image is built again; one whose image needs a login is not, which the log says", async () => {
  const orders: ImageOrder[] = [];
  const images = {
    prepare: async (order: ImageOrder) => {
      orders.push(order);
      throw new Error("no image today");
    },
  };
  await using fake = openFakeTemplates({ images });
  const { ledger, builds } = fake;
  for (const name of ["closed", "open"]) {
    const [id, folder] = [`id-${name}`, join(fake.snapshotsFolder, name)];
    insertTemplate(ledger, { id, aliases: [name], shape, public: false });
    registerSnapshot(ledger, { id: name, kind: "template", logicalId: id, folder, reason: null });
    markSnapshotReady(ledger, name, facts);
    const from = { kind: "image", reference: `r.example/${name}`, needsLogin: name === "closed" };
    const source = { revision: "r", parentBuildId: "sha256:0", spec: JSON.stringify({ from, steps: [] }) };
    const defaults = { envs: {}, user: "user", workdir: "" };
    const build = { id: `b-${name}`, templateId: id, snapshotId: name, shape, tags: ["default"], defaults, source };
    publishBuild(ledger, build);
  }
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
  await rebuildStale({ ledger, builds, log, maxAgeMs: -1, tried: new Set() }, new AbortController().signal);
  expect(orders).toEqual([{ reference: "r.example/open", login: undefined }]);
  expect(lines.join("")).toContain("a stale template is not rebuilt: its image needs a login");
});
