import { expect, test } from "vitest";
import type { Ledger } from "../../src/ledger/open.ts";
import { quarantineSnapshot, registerSnapshot } from "../../src/ledger/snapshots.ts";
import {
  findTemplate,
  insertTemplate,
  listTemplates,
  publishBuild,
  recordSpawn,
  resolveTemplate,
} from "../../src/ledger/templates.ts";
import { addReadySnapshot, failureOf, manualClock, memoryLedger, shape } from "./support.ts";

function ledgerWithTemplate(clock = manualClock()): Ledger {
  const ledger = memoryLedger(clock);
  insertTemplate(ledger, { id: "t1", aliases: ["base", "debian"], public: true, shape });
  return ledger;
}

test("a template is found by its id and by each of its aliases", () => {
  const ledger = ledgerWithTemplate();
  const template = findTemplate(ledger, "t1");
  expect(template).toEqual({
    id: "t1",
    aliases: ["base", "debian"],
    public: true,
    shape,
    buildIds: [],
    tags: [],
    createdAtMs: 1_000,
    updatedAtMs: 1_000,
    spawnCount: 0,
    lastSpawnedAtMs: null,
  });
  expect(findTemplate(ledger, "base")).toEqual(template);
  expect(findTemplate(ledger, "debian")).toEqual(template);
  expect(findTemplate(ledger, "ubuntu")).toBeUndefined();
  expect(listTemplates(ledger)).toEqual([template]);
});

test("an unknown template and an unknown tag are told apart, in E2B's words", () => {
  const ledger = ledgerWithTemplate();
  expect(failureOf(() => resolveTemplate(ledger, "nope"))).toEqual({
    code: "not_found",
    message: "template 'nope' not found",
  });
  expect(failureOf(() => resolveTemplate(ledger, "base"))).toEqual({
    code: "not_found",
    message: "tag 'default' does not exist for template 'base'",
  });
});

test("a newer build takes over a tag, and the older one keeps its other tags", () => {
  const clock = manualClock();
  const ledger = ledgerWithTemplate(clock);
  addReadySnapshot(ledger, "s1");
  addReadySnapshot(ledger, "s2");
  publishBuild(ledger, { id: "b1", templateId: "t1", snapshotId: "s1", shape, tags: ["default", "v1"] });
  expect(resolveTemplate(ledger, "base")).toMatchObject({ buildId: "b1", snapshot: { id: "s1", state: "ready" } });
  clock.advance(10);
  const larger = { ...shape, memoryMiB: 1024 };
  publishBuild(ledger, { id: "b2", templateId: "t1", snapshotId: "s2", shape: larger, tags: ["default"] });
  const current = resolveTemplate(ledger, "t1");
  expect(current).toMatchObject({ buildId: "b2", snapshot: { id: "s2" } });
  expect(current.template).toMatchObject({
    shape: larger,
    buildIds: ["b2", "b1"],
    createdAtMs: 1_000,
    updatedAtMs: 1_010,
  });
  expect(current.template.tags).toEqual([
    { tag: "default", buildId: "b2", assignedAtMs: 1_010 },
    { tag: "v1", buildId: "b1", assignedAtMs: 1_000 },
  ]);
  expect(resolveTemplate(ledger, "debian", "v1").snapshot.id).toBe("s1");
});

test("a template whose snapshot was quarantined still resolves to it, so that the refusal can name it", () => {
  const ledger = ledgerWithTemplate();
  addReadySnapshot(ledger);
  publishBuild(ledger, { id: "b1", templateId: "t1", snapshotId: "snap", shape, tags: ["default"] });
  quarantineSnapshot(ledger, "snap", "bad hash");
  expect(resolveTemplate(ledger, "base").snapshot).toMatchObject({
    state: "quarantined",
    quarantineReason: "bad hash",
  });
});

test("a build is published only of a known template and a ready snapshot, or nothing changes", () => {
  const ledger = ledgerWithTemplate();
  registerSnapshot(ledger, { id: "half", kind: "template", logicalId: "t1", folder: "/half", reason: null });
  const build = {
    id: "b1",
    templateId: "t1",
    snapshotId: "half",
    shape: { ...shape, vcpuCount: 9 },
    tags: ["default"],
  };
  expect(failureOf(() => publishBuild(ledger, build))).toEqual({
    code: "invalid_state",
    message: "Snapshot half is not ready",
  });
  expect(findTemplate(ledger, "t1")?.shape).toEqual(shape);
  expect(failureOf(() => publishBuild(ledger, { ...build, templateId: "t9" })).code).toBe("not_found");
});

test("a name means one template only", () => {
  const ledger = ledgerWithTemplate();
  const taken = (id: string, aliases: string[]) =>
    failureOf(() => insertTemplate(ledger, { id, aliases, public: false, shape }));
  expect(taken("t1", [])).toEqual({ code: "already_exists", message: "template 't1' exists already" });
  expect(taken("t2", ["other", "debian"]).message).toBe("template 'debian' exists already");
  expect(taken("t2", ["t1"]).code).toBe("already_exists");
  expect(taken("base", []).code).toBe("already_exists");
  expect(listTemplates(ledger)).toHaveLength(1);
  expect(findTemplate(ledger, "other")).toBeUndefined();
});

test("sandboxes made from a template are counted", () => {
  const clock = manualClock();
  const ledger = ledgerWithTemplate(clock);
  clock.advance(7);
  recordSpawn(ledger, "t1");
  recordSpawn(ledger, "t1");
  recordSpawn(ledger, "gone");
  expect(findTemplate(ledger, "t1")).toMatchObject({ spawnCount: 2, lastSpawnedAtMs: 1_007, updatedAtMs: 1_000 });
});
