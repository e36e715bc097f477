import { expect, test } from "vitest";
import type { Ledger } from "../../src/ledger/open.ts";
import { getSnapshot } from "../../src/ledger/snapshots.ts";
import {
  failBuildJob,
  findBuildJob,
  finishBuildJob,
  insertBuildJob,
  listBuildingJobs,
  listBuildJobs,
  listSourcedBuilds,
  noteBuildPossession,
  readBuildLog,
  startBuildJob,
} from "../../src/ledger/template-builds.ts";
import { assignTags, deleteTemplate, removeTags, strikeUnneededSnapshots } from "../../src/ledger/template-upkeep.ts";
import { findTemplate, insertTemplate, publishBuild, resolveTemplate } from "../../src/ledger/templates.ts";
import { addReadySnapshot, addSandbox, failureOf, machineOf, manualClock, memoryLedger, shape } from "./support.ts";

const reason = { message: "it failed", step: "2", logEntries: [{ atMs: 1, level: "warn" as const, message: "why" }] };

/** The optional settings of a build, which a client need not give. */
const unasked = { vcpuCount: null, memoryMiB: null, minFreeDiskMiB: null };

function ledgerWithJob(clock = manualClock()): Ledger {
  const ledger = memoryLedger(clock);
  insertTemplate(ledger, { id: "base", aliases: ["app"], shape, public: false });
  insertBuildJob(ledger, { ...unasked, id: "b1", templateId: "base", tags: ["default"], vcpuCount: 1 });
  return ledger;
}

test("a build waits, is under way, and ends well or badly, once", () => {
  const ledger = ledgerWithJob();
  expect(findBuildJob(ledger, "b1")).toMatchObject({
    state: "waiting",
    tags: ["default"],
    vcpuCount: 1,
    memoryMiB: null,
  });
  expect(failureOf(() => finishBuildJob(ledger, "b1", [])).code).toBe("invalid_state");
  startBuildJob(ledger, "b1");
  expect(failureOf(() => startBuildJob(ledger, "b1"))).toEqual({
    code: "failed_precondition",
    message: "build is not in waiting state",
  });
  noteBuildPossession(ledger, "b1", { machine: machineOf("m1"), snapshotId: "s1" });
  noteBuildPossession(ledger, "b1", { reservationId: "r1" });
  expect(listBuildingJobs(ledger)).toMatchObject([
    { id: "b1", machine: machineOf("m1"), snapshotId: "s1", reservationId: "r1" },
  ]);
  failBuildJob(ledger, "b1", reason, [...reason.logEntries]);
  expect(findBuildJob(ledger, "b1")).toMatchObject({ state: "error", reason, finishedAtMs: 1_000 });
  expect(readBuildLog(ledger, "b1")).toEqual(reason.logEntries);
  expect(failureOf(() => finishBuildJob(ledger, "b1", [])).code).toBe("invalid_state");
  failBuildJob(ledger, "b1", { ...reason, message: "again" }, []);
  expect(findBuildJob(ledger, "b1")?.reason?.message).toBe("it failed");
  expect(listBuildingJobs(ledger)).toEqual([]);
});

test("a build that its client does not start within a day is forgotten", () => {
  const clock = manualClock();
  const ledger = ledgerWithJob(clock);
  clock.advance(25 * 3_600_000);
  insertBuildJob(ledger, { ...unasked, id: "b2", templateId: "base", tags: ["v1"] });
  expect(listBuildJobs(ledger, "base").map(({ id }) => id)).toEqual(["b2"]);
});

test("a build keeps its own defaults, shape and source, whatever newer ones have", () => {
  const clock = manualClock();
  const ledger = ledgerWithJob(clock);
  for (const id of ["s1", "s2"]) addReadySnapshot(ledger, id);
  const defaults = { envs: { A: "1" }, user: "builder", workdir: "/srv" };
  const source = { revision: "r1", parentBuildId: "p1", spec: "{}" };
  publishBuild(ledger, { id: "b1", templateId: "base", snapshotId: "s1", shape, tags: ["v1"], defaults, source });
  clock.advance(1);
  const larger = { ...shape, memoryMiB: 4096 };
  publishBuild(ledger, { id: "b2", templateId: "base", snapshotId: "s2", shape: larger, tags: ["default"] });
  expect(resolveTemplate(ledger, "app", "v1")).toMatchObject({ defaults, template: { shape } });
  expect(resolveTemplate(ledger, "app")).toMatchObject({
    defaults: { envs: {}, user: "user", workdir: "" },
    template: { shape: larger },
  });
  assignTags(ledger, "app", "v1", ["stable"]);
  const tagged = { id: "b1", templateId: "base", tags: ["stable", "v1"], parentBuildId: "p1", revision: "r1" };
  expect(listSourcedBuilds(ledger)).toMatchObject([tagged]);
});

test("only snapshots that no tag, sandbox or caller needs are struck off", () => {
  const ledger = ledgerWithJob();
  for (const id of ["tagged", "used", "kept", "loose"]) addReadySnapshot(ledger, id);
  publishBuild(ledger, { id: "b1", templateId: "base", snapshotId: "tagged", shape, tags: ["default"] });
  addSandbox(ledger, "i1", "used");
  expect(strikeUnneededSnapshots(ledger, new Set(["kept"])).map(({ id }) => id)).toEqual(["loose"]);
  expect(getSnapshot(ledger, "loose")?.state).toBe("deleted");
  expect(strikeUnneededSnapshots(ledger).map(({ id }) => id)).toEqual(["kept"]);
});

test("a template is deleted with its builds, unless it is in use", () => {
  const ledger = ledgerWithJob();
  addReadySnapshot(ledger, "s1");
  publishBuild(ledger, { id: "b1", templateId: "base", snapshotId: "s1", shape, tags: ["default", "v1"] });
  expect(failureOf(() => removeTags(ledger, "app", ["default"])).code).toBe("failed_precondition");
  removeTags(ledger, "app", ["v1", "unknown"]);
  expect(findTemplate(ledger, "app")?.tags.map(({ tag }) => tag)).toEqual(["default"]);
  startBuildJob(ledger, "b1");
  expect(failureOf(() => deleteTemplate(ledger, "app")).message).toContain("while a build of it is under way");
  failBuildJob(ledger, "b1", reason, []);
  addSandbox(ledger, "i1", "s1");
  expect(failureOf(() => deleteTemplate(ledger, "app")).message).toContain("running or paused sandboxes using it");
  ledger.statement("update sandboxes set state = 'terminated', end_reason = 'killed'").run({});
  deleteTemplate(ledger, "app");
  expect(findTemplate(ledger, "app")).toBeUndefined();
  expect(findBuildJob(ledger, "b1")).toBeUndefined();
  expect(strikeUnneededSnapshots(ledger).map(({ id }) => id)).toEqual(["s1"]);
});
