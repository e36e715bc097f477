/** The cache of build steps over the fake engine. Its guest is a process of this host: a file shows what ran. */
import { randomUUID } from "node:crypto";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { expect, test } from "vitest";
import { listLayers } from "../../../src/ledger/build-layers.ts";
import { usage } from "../../../src/ledger/capacity.ts";
import { openLedger } from "../../../src/ledger/open.ts";
import { findBuildJob, insertBuildJob } from "../../../src/ledger/template-builds.ts";
import { findTemplate, insertTemplate, resolveTemplate } from "../../../src/ledger/templates.ts";
import type { EngineInfo } from "../../../src/machine/driver.ts";
import { createMetrics } from "../../../src/metrics.ts";
import { BuildLayers, type LayerDependencies } from "../../../src/template/build/layers.ts";
import type { BuildStep } from "../../../src/template/build/spec.ts";
import { noTrust } from "../../../src/template/trust/host-trust.ts";
import { type FakeTemplates, openFakeTemplates, shape, writeBaseSnapshot } from "../../support/fakes/fake-templates.ts";
import { localAgent } from "../../support/guest/local-agent.ts";

async function open(layerBudgetBytes = 2 ** 30): Promise<FakeTemplates> {
  const fake = openFakeTemplates({ guest: { kind: "agent", command: localAgent() }, layerBudgetBytes });
  await writeBaseSnapshot(fake);
  return fake;
}

/** A step that leaves its name in a file of the test. */
const step = ({ folder }: FakeTemplates, name: string): BuildStep => {
  return { type: "RUN", command: `echo ${name} >> ${folder}/ran`, user: "" };
};

const yes = { supported: true } as const;

async function build(fake: FakeTemplates, steps: readonly BuildStep[], forcedFrom?: number) {
  const { ledger, builds, folder } = fake;
  await rm(join(folder, "ran"), { force: true });
  const template =
    findTemplate(ledger, "made") ?? insertTemplate(ledger, { id: "t", aliases: ["made"], shape, public: false });
  const asked = { vcpuCount: null, memoryMiB: null, minFreeDiskMiB: null, tags: ["default"] };
  const job = insertBuildJob(ledger, { id: randomUUID(), templateId: template.id, ...asked });
  const from = { kind: "template", name: "base", tag: undefined } as const;
  const spec = { from, steps, startCommand: undefined, readyCommand: undefined };
  await builds.start(job, spec, forcedFrom === undefined ? {} : { forcedFrom });
  await builds.finished(job.id);
  const ran = (await readFile(join(folder, "ran"), "utf8").catch(() => "")).trim().split("\n").filter(Boolean);
  const cached = builds
    .log(job.id)
    .flatMap(({ message }) => (message.startsWith("CACHED ") ? [message.replace(/ \[[0-9a-f]{64}\]$/, "")] : []));
  return { job: findBuildJob(ledger, job.id), ran, cached };
}

test("steps that ran before are not run again, and those after a change are", async () => {
  await using fake = await open();
  const steps = ["one", "two", "three"].map((name) => step(fake, name));
  expect(await build(fake, steps)).toMatchObject({ job: { state: "ready" }, ran: ["one", "two", "three"], cached: [] });
  const again = await build(fake, steps);
  expect(again).toMatchObject({ job: { state: "ready" }, ran: [] });
  expect(again.cached).toHaveLength(4);
  expect(again.cached[1]).toMatch(/^CACHED \[builder 1\/3\] RUN echo one/);
  const changed = await build(fake, [...steps.slice(0, 2), step(fake, "other")]);
  expect(changed).toMatchObject({ ran: ["other"] });
  expect(changed.cached).toHaveLength(3);
  expect(await build(fake, [step(fake, "first"), ...steps])).toMatchObject({ ran: ["first", "one", "two", "three"] });
});

test("the metrics count steps that ran and steps that did not, and the disk that the cache takes", async () => {
  await using fake = await open();
  const { metrics } = fake;
  const steps = ["one", "two"].map((name) => step(fake, name));
  await build(fake, steps);
  await build(fake, [...steps, step(fake, "three")]);
  const text = async () => (await metrics.registry.metrics()).split("\n");
  expect(await text()).toEqual(
    expect.arrayContaining(['firkin_build_steps_total{result="run"} 3', 'firkin_build_steps_total{result="cached"} 2']),
  );
  const sizeBytes = listLayers(fake.ledger).reduce((sum, layer) => sum + layer.sizeBytes, 0);
  expect(sizeBytes).toBeGreaterThan(0);
  expect(await text()).toContain(`firkin_build_cache_bytes ${sizeBytes}`);
  await fake.builds.pruneLayers();
  expect(await text()).toContain("firkin_build_cache_bytes 0");
});

test("what a step sets is there for the steps after it, and in the template", async () => {
  await using fake = await open();
  const env = (value: string): BuildStep => ({ type: "ENV", pairs: [["A", value]] });
  const steps = [env("1"), step(fake, "x$A")];
  expect(await build(fake, steps)).toMatchObject({ ran: ["x1"] });
  expect(await build(fake, [...steps, step(fake, "y$A")])).toMatchObject({ ran: ["y1"] });
  expect(resolveTemplate(fake.ledger, "made").defaults.envs).toEqual({ A: "1" });
  expect(await build(fake, [env("2"), step(fake, "x$A")])).toMatchObject({ ran: ["x2"] });
});

test("a forced step runs, with all that follow; a forced build runs all", async () => {
  await using fake = await open();
  const steps = ["one", "two"].map((name) => step(fake, name));
  await build(fake, steps);
  expect(await build(fake, steps, 1)).toMatchObject({ ran: ["two"] });
  expect(await build(fake, steps, -1)).toMatchObject({ ran: ["one", "two"], cached: [] });
  expect(await build(fake, steps)).toMatchObject({ ran: [] });
});

test("a layer that another takes the place of is removed, also by a build that fails", async () => {
  await using fake = await open();
  const fails: BuildStep = { type: "RUN", command: "false", user: "" };
  for (const _ of [1, 2]) await build(fake, [step(fake, "one"), fails], -1);
  expect(listLayers(fake.ledger)).toHaveLength(1);
  expect(await readdir(fake.snapshotsFolder)).toHaveLength(2);
});

test("steps before the one that failed are kept", async () => {
  await using fake = await open();
  const fails: BuildStep = { type: "RUN", command: "false", user: "" };
  expect(await build(fake, [step(fake, "one"), fails])).toMatchObject({ job: { state: "error" }, ran: ["one"] });
  expect(await build(fake, [step(fake, "one"), step(fake, "two")])).toMatchObject({ ran: ["two"] });
});

test("whatever decides what a step does is in the keys", () => {
  using ledger = openLedger(":memory:");
  const abilities = { memorySnapshot: yes, fanOut: yes, pause: yes, network: yes };
  const engine: EngineInfo = { engine: "qemu", version: "7", acceleration: "tcg", cpuClass: "a", abilities };
  const assets = { kernel: "/k", kernelVersion: "6", initramfs: "/i", baseDisk: "/d", agent: "/a" };
  const [log, metrics] = [pino({ level: "silent" }), createMetrics()];
  const deps = { ledger, log, metrics, engine, assets, trust: noTrust, budgetBytes: 1 };
  const ground = {
    parentId: "p",
    defaults: { envs: {}, user: "user", workdir: "" },
    start: { kind: "boot", shape },
  } as const;
  const run = (command: string): BuildStep => ({ type: "RUN", command, user: "" });
  const steps = [run("a"), run("b")];
  const keys = (more: Partial<LayerDependencies> = {}, other: Partial<typeof ground> = {}, these = steps) =>
    new BuildLayers({ ...deps, ...more }).keysOf({ ...ground, ...other }, these).at(-1);
  const all = [
    keys(),
    keys({}, {}, [run("a")]),
    keys({}, {}, [run("b"), run("a")]),
    keys({}, {}, [run("a b")]),
    keys({}, { parentId: "q" } as never),
    keys({}, { defaults: { ...ground.defaults, user: "root" } } as never),
    keys({}, { start: { kind: "boot", shape: { ...shape, memoryMiB: 1024 } } } as never),
    keys({ engine: { ...engine, version: "8" } }),
    keys({ engine: { ...engine, cpuClass: "b" } }),
    keys({ assets: { ...assets, initramfs: "/j" } }),
    keys({ assets: { ...assets, agent: "/b" } }),
    keys({ trust: { authorities: ["x"], proxyVariables: {} } }),
  ];
  expect(new Set(all).size).toBe(all.length);
  expect(keys()).toBe(all[0]);
});

test("a layer whose files are gone is made again", async () => {
  await using fake = await open();
  const steps = [step(fake, "one"), step(fake, "two")];
  await build(fake, steps);
  for (const { folder } of listLayers(fake.ledger)) await rm(folder, { recursive: true });
  expect(await build(fake, steps)).toMatchObject({ job: { state: "ready" }, ran: ["one", "two"] });
});

test("layers keep to their budget, and pruning leaves the template and nothing else", async () => {
  await using fake = await open();
  await build(fake, [step(fake, "one"), step(fake, "two")]);
  expect(listLayers(fake.ledger)).toHaveLength(2);
  expect(await fake.builds.pruneLayers()).toMatchObject({ layers: 2 });
  expect(listLayers(fake.ledger)).toEqual([]);
  expect((await readdir(fake.snapshotsFolder)).sort()).toEqual(
    ["base", resolveTemplate(fake.ledger, "made").snapshot.id].sort(),
  );
  expect(usage(fake.ledger).active.sandboxes).toBe(0);
  await using none = await open(0);
  await build(none, [step(none, "one")]);
  expect(listLayers(none.ledger)).toEqual([]);
  await using little = await open(1);
  await build(little, [step(little, "one"), step(little, "two")]);
  expect(listLayers(little.ledger)).toEqual([]);
  expect(await readdir(little.snapshotsFolder)).toHaveLength(2);
});

test("a daemon that dies after a step keeps that step", async () => {
  await using fake = await open();
  const { builds, ledger } = fake;
  const template = insertTemplate(ledger, { id: "t", aliases: ["made"], shape, public: false });
  const asked = { vcpuCount: null, memoryMiB: null, minFreeDiskMiB: null, tags: ["default"] };
  const job = insertBuildJob(ledger, { id: randomUUID(), templateId: template.id, ...asked });
  const from = { kind: "template", name: "base", tag: undefined } as const;
  const steps: BuildStep[] = [step(fake, "one"), { type: "RUN", command: "echo on; sleep 600", user: "" }];
  await builds.start(job, { from, steps, startCommand: undefined, readyCommand: undefined });
  await expect.poll(() => builds.log(job.id).map(({ message }) => message)).toContain("[builder 2/2] [stdout]: on");
  await fake.reopen().recover();
  expect(findBuildJob(ledger, job.id)).toMatchObject({ state: "error" });
  expect(listLayers(ledger)).toHaveLength(1);
  expect(await build(fake, [step(fake, "one"), step(fake, "two")])).toMatchObject({ ran: ["two"] });
});
