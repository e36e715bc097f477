/** The ledger under real processes: one that is killed without warning, and several at once on one file. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { expect, onTestFinished, test } from "vitest";
import { listUnownedReservations, usage } from "../../src/ledger/capacity.ts";
import { openLedger } from "../../src/ledger/open.ts";
import { getSandbox, listSandboxes } from "../../src/ledger/sandboxes.ts";
import { addReadySnapshot, temporaryPath } from "./support.ts";

const fixture = fileURLToPath(new URL("fixtures/busy-writer.ts", import.meta.url));

interface Writer {
  readonly child: ChildProcess;
  /** Complete lines that the process has written so far. */
  lines(): string[];
  /** Resolves with the exit code, null when a signal ended the process, once all its output has arrived. */
  readonly ended: Promise<number | null>;
}

function startWriter(...args: string[]): Writer {
  const child = spawn(process.execPath, ["--import", "tsx", fixture, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  let output = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  const ended = once(child, "close").then(([code]) => code as number | null);
  return { child, ended, lines: () => output.split("\n").slice(0, -1) };
}

test("a process that is killed while it writes loses no commit, and leaves nothing half-done", async () => {
  const path = temporaryPath();
  const first = openLedger(path);
  addReadySnapshot(first);
  first.close();
  for (let round = 0; round < 3; round += 1) {
    const writer = startWriter(path, `r${round}-`, "0", "99");
    while (writer.lines().length < 50 + round * 77) await once(writer.child.stdout ?? writer.child, "data");
    writer.child.kill("SIGKILL");
    await writer.ended;

    using ledger = openLedger(path);
    for (const line of writer.lines()) {
      const [what, id = ""] = line.split(" ");
      const sandbox = getSandbox(ledger, id);
      expect(sandbox, line).toBeDefined();
      if (what === "ended") expect(sandbox?.state, line).toBe("terminated");
    }
    expect(usage(ledger).active.sandboxes).toBe(listSandboxes(ledger).length);
    expect(listUnownedReservations(ledger)).toEqual([]);
    expect(listSandboxes(ledger).length, "at most one was under way each time").toBeLessThanOrEqual(round + 1);
    expect(integrityOf(path)).toEqual(["ok"]);
  }
});

test("several processes on one file wait for each other and never exceed the budget together", async () => {
  const path = temporaryPath();
  const first = openLedger(path);
  addReadySnapshot(first);
  first.close();
  const writers = ["a", "b", "c"].map((prefix) => startWriter(path, prefix, "60", "2"));
  expect(await Promise.all(writers.map(({ ended }) => ended))).toEqual([0, 0, 0]);
  const lines = writers.flatMap((writer) => writer.lines());
  expect(lines.filter((line) => line.startsWith("too many"))).toEqual([]);
  expect(lines.filter((line) => line.startsWith("ended"))).toHaveLength(180);
  using ledger = openLedger(path);
  expect(usage(ledger).active.sandboxes).toBe(0);
  expect(listSandboxes(ledger, ["terminated"])).toHaveLength(180);
});

test("processes that open a new ledger at the same time agree on its migrations", async () => {
  const path = temporaryPath();
  const openers = [1, 2, 3].map(() => {
    const script =
      "import('./src/ledger/open.ts').then((m) => m.openLedger(process.argv[1], { busyTimeoutMs: 20000 }).close())";
    const cwd = fileURLToPath(new URL("../../", import.meta.url));
    const child = spawn(process.execPath, ["--import", "tsx", "-e", script, path], {
      cwd,
      stdio: ["ignore", "ignore", "inherit"],
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    return once(child, "close").then(([code]) => code);
  });
  expect(await Promise.all(openers)).toEqual([0, 0, 0]);
  openLedger(path).close();
});

function integrityOf(path: string): unknown[] {
  const db = new Database(path, { readonly: true });
  try {
    return db.prepare("pragma integrity_check").pluck().all();
  } finally {
    db.close();
  }
}
