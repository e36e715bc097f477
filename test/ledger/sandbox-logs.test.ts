import { expect, test } from "vitest";
import { purgeEnded } from "../../src/ledger/history.ts";
import { appendSandboxLogs, readSandboxLogs, type SandboxLogQuery } from "../../src/ledger/sandbox-logs.ts";
import { moveSandbox } from "../../src/ledger/sandboxes.ts";
import type { SandboxLogEntry } from "../../src/types.ts";
import { addReadySnapshot, addSandbox, memoryLedger } from "./support.ts";

const everything = { sandboxId: "i1", levels: ["debug", "info", "warn", "error"], search: "", order: "asc" } as const;

function line(atMs: number, message: string, rest: Partial<SandboxLogEntry> = {}): SandboxLogEntry {
  return { sandboxId: "i1", atMs, level: "info", message, fields: {}, ...rest };
}

test("lines come back in order, filtered by time, level and text", () => {
  const ledger = memoryLedger();
  const read = (query: Partial<SandboxLogQuery> = {}) =>
    readSandboxLogs(ledger, { ...everything, limit: 100, ...query }).map(({ message }) => message);
  appendSandboxLogs(ledger, [line(1, "one", { fields: { pid: "7" } }), line(2, "two", { level: "warn" })]);
  appendSandboxLogs(ledger, [line(2, "other", { sandboxId: "i2" }), line(2, "Three 100%", { level: "error" })]);
  expect(read()).toEqual(["one", "two", "Three 100%"]);
  expect(read({ order: "desc", limit: 2 })).toEqual(["Three 100%", "two"]);
  expect(read({ fromMs: 2 })).toEqual(["two", "Three 100%"]);
  expect(read({ toMs: 1 })).toEqual(["one"]);
  expect(read({ levels: ["warn", "error"] })).toEqual(["two", "Three 100%"]);
  expect(read({ search: "0%" })).toEqual(["Three 100%"]);
  expect(read({ search: "three" })).toEqual([]);
  expect(readSandboxLogs(ledger, { ...everything, limit: 1 })).toEqual([line(1, "one", { fields: { pid: "7" } })]);
});

test("only the newest lines of a sandbox are kept, whatever others write", () => {
  const ledger = memoryLedger();
  appendSandboxLogs(ledger, [line(1, "elsewhere", { sandboxId: "i2" })], 3);
  for (let n = 1; n <= 5; n += 1) appendSandboxLogs(ledger, [line(n, `${n}a`), line(n, `${n}b`)], 3);
  const read = (sandboxId: string) =>
    readSandboxLogs(ledger, { ...everything, sandboxId, limit: 9 }).map(({ message }) => message);
  expect(read("i1")).toEqual(["4b", "5a", "5b"]);
  expect(read("i2")).toEqual(["elsewhere"]);
});

test("a log is removed with its sandbox", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  addSandbox(ledger, "i1");
  addSandbox(ledger, "i2");
  moveSandbox(ledger, "i1", "creating", "terminated", { endReason: "create_failed", endAtMs: 5 });
  appendSandboxLogs(ledger, [line(1, "a"), line(1, "b", { sandboxId: "i2" })]);
  purgeEnded(ledger, { endedBeforeMs: 0, keep: 10 });
  expect(readSandboxLogs(ledger, { ...everything, limit: 9 })).toHaveLength(1);
  purgeEnded(ledger, { endedBeforeMs: 10, keep: 10 });
  expect(readSandboxLogs(ledger, { ...everything, limit: 9 })).toEqual([]);
  expect(readSandboxLogs(ledger, { ...everything, sandboxId: "i2", limit: 9 })).toHaveLength(1);
});
