/** The pure parts of a build: its log, its steps, its start, its freshness. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { isDomainError } from "../../../src/errors.ts";
import type { ResolvedTemplate } from "../../../src/ledger/templates.ts";
import { decideFreshness } from "../../../src/template/build/freshness.ts";
import { BuildLog, LineSplitter } from "../../../src/template/build/log.ts";
import { decideStart } from "../../../src/template/build/machine.ts";
import { type BuildSpec, parseSteps, sourceRevision } from "../../../src/template/build/spec.ts";
import { parseStoredSpec } from "../../../src/template/build/stored-spec.ts";
import { ManualClock } from "../../support/fakes/manual-clock.ts";

test("a log names the step of each entry, and keeps the last entries", () => {
  const log = new BuildLog(new ManualClock());
  log.beginStep("1");
  log.add("info", "one");
  log.beginStep("2");
  for (let line = 0; line < 60; line += 1) log.add("warn", `line ${line}`);
  expect(log.entries[0]).toEqual({ atMs: 1_000_000, level: "info", message: "one", step: "1" });
  expect(log.tail.map(({ message }) => message)).toEqual(Array.from({ length: 50 }, (_, line) => `line ${line + 10}`));
  expect(log.step).toBe("2");
});

test("a log that is full says so once, and still knows the last lines", () => {
  const log = new BuildLog(new ManualClock());
  for (let line = 0; line < 30_000; line += 1) log.add("info", `line ${line}`);
  expect(log.entries).toHaveLength(10_000);
  expect(log.entries.at(-1)?.message).toBe("the log is full; the rest is left out");
  expect(log.tail.at(-1)?.message).toBe("line 29999");
  log.add("info", "x".repeat(100_000));
  expect(log.tail.at(-1)?.message.length).toBeLessThan(10_000);
});

test("lines are the same however the bytes are split", () => {
  const text = "one\r\ntwo é\n\u001b[31mred\u001b[0m\n10%\r50%\r100%\n\nlast";
  const expected = ["one", "two é", "red", "100%", "", "last"];
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 7 })), (sizes) => {
      const lines: string[] = [];
      const splitter = new LineSplitter((line) => lines.push(line));
      const bytes = Buffer.from(text);
      let at = 0;
      for (const size of sizes) {
        splitter.push(bytes.subarray(at, at + size));
        at += size;
      }
      splitter.push(bytes.subarray(at));
      splitter.end();
      expect(lines).toEqual(expected);
    }),
  );
});

test("any steps are parsed or refused, never anything else", () => {
  const step = fc.record({
    type: fc.oneof(fc.constantFrom("RUN", "ENV", "WORKDIR", "USER", "COPY", "env"), fc.string()),
    args: fc.array(fc.string()),
    filesHash: fc.option(fc.stringMatching(/^[0-9a-f]{64}$/)),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 4 }), (steps) => {
      try {
        expect(parseSteps(steps)).toHaveLength(steps.length);
      } catch (error) {
        if (!isDomainError(error)) throw error;
        expect(error.message).toMatch(/^step \d+ /);
      }
    }),
  );
});

test.each([
  [{ type: "RUN", args: [" "] }, "step 1 (RUN): there is no command"],
  [{ type: "ENV", args: ["A"] }, "step 1 (ENV): names and values come in pairs"],
  [{ type: "ENV", args: ["A B", "1"] }, "step 1 (ENV): 'A B' cannot be the name of a variable"],
  [{ type: "USER", args: ["a b"] }, "step 1 (USER): 'a b' cannot be a user's name"],
  [{ type: "COPY", args: ["a", "b", "", "9z"] }, "step 1 (COPY): '9z' is no octal mode"],
  [{ type: "COPY", args: ["a", "b"] }, "step 1 (COPY): there is no files hash"],
  [{ type: "HEALTHCHECK", args: [] }, "step 1 (HEALTHCHECK): command type HEALTHCHECK is not implemented"],
])("a bad step is refused by name", (step, message) => {
  expect(() => parseSteps([step])).toThrow(message);
});

const parent = (aliases: string[]): ResolvedTemplate => ({
  template: {
    ...{ id: "p", aliases, public: true, buildIds: ["b"], tags: [], createdAtMs: 0, updatedAtMs: 0, spawnCount: 0 },
    ...{ lastSpawnedAtMs: null, shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 } },
  },
  buildId: "b",
  defaults: { envs: {}, user: "user", workdir: "" },
  snapshot: {
    ...{ id: "s", kind: "template", logicalId: "p", folder: "/s", state: "ready", facts: null, reason: null },
    ...{ bootId: null, quarantineReason: null, quarantinedAtMs: null, sandboxId: null, createdAtMs: 0 },
  },
});

test("a build is restored from its parent, unless base is to have another shape", () => {
  const same = { vcpuCount: 2, memoryMiB: null };
  expect(decideStart(parent(["mine"]), same)).toMatchObject({ kind: "restore", snapshotFolder: "/s" });
  const larger = { vcpuCount: 2, memoryMiB: 1024 };
  expect(decideStart(parent(["base"]), larger)).toEqual({
    kind: "boot",
    shape: { vcpuCount: 2, memoryMiB: 1024, diskMiB: 8192 },
  });
  expect(() => decideStart(parent(["mine"]), larger)).toThrow(/^memoryMB 1024 is not supported .* from 'mine'/);
});

test("a template is stale when its parent was built again, or when it is too old", () => {
  const build = { parentBuildId: "p1", createdAtMs: 1_000, damaged: false };
  expect(decideFreshness(build, "p1", 9_000, undefined)).toEqual({ state: "fresh" });
  expect(decideFreshness(build, "p2", 1_000, undefined)).toEqual({ state: "stale", why: "parent_changed" });
  expect(decideFreshness(build, "p1", 9_000, 7_999)).toEqual({ state: "stale", why: "too_old" });
  expect(decideFreshness(build, "p1", 9_000, 8_000)).toEqual({ state: "fresh" });
  const broken = { ...build, damaged: true };
  expect(decideFreshness(broken, "p1", 1_000, undefined)).toEqual({ state: "stale", why: "damaged" });
  expect(decideFreshness(broken, undefined, 1_000, undefined)).toEqual({ state: "fresh" });
  expect(decideFreshness(build, undefined, 9_000, 1)).toEqual({ state: "fresh" });
});

test("the spec of a build survives the ledger, and its revision shows a change", () => {
  const spec: BuildSpec = {
    from: { kind: "template" as const, name: "base", tag: undefined },
    steps: parseSteps([
      { type: "RUN", args: ["true"] },
      { type: "ENV", args: ["A", "1"] },
      { type: "COPY", args: ["a", "b"], filesHash: "0".repeat(64) },
    ]),
    startCommand: "serve",
    readyCommand: undefined,
  };
  const stored = parseStoredSpec(JSON.stringify(spec));
  expect(stored).toEqual(spec);
  expect(sourceRevision(stored, "p")).toBe(sourceRevision(spec, "p"));
  expect(sourceRevision(spec, "p")).not.toBe(sourceRevision(spec, "q"));
  expect(sourceRevision(spec, "p")).not.toBe(sourceRevision({ ...spec, startCommand: "other" }, "p"));
});
