/** The program that the agent keeps running, and the environment that it is given. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildSanitized, startAgent } from "../support/guest/built-agent.ts";
import { op, tag } from "../support/guest/raw-link.ts";
import { killProcess } from "../support/kill-process.ts";

let folder: string;
let program: string;

beforeAll(() => {
  buildSanitized();
  folder = mkdtempSync(join(tmpdir(), "firkin-keeper-"));
  program = join(folder, "program");
  writeFileSync(program, `#!/bin/sh\necho $$ >>${folder}/starts\nenv >${folder}/environment\nexec sleep 600\n`);
  chmodSync(program, 0o755);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Pids. A line that is not whole yet is none. */
const starts = (): number[] => {
  const text = existsSync(join(folder, "starts")) ? readFileSync(join(folder, "starts"), "utf8") : "";
  return text.split("\n").slice(0, -1).map(Number);
};

test("the program is started with the agent, and again whenever it has ended", async () => {
  await using link = await startAgent("--keep", program);
  await expect.poll(() => starts().length).toBe(1);
  killProcess(starts()[0], "SIGKILL");
  await expect.poll(() => starts().length).toBe(2);
  expect((await link.call(op.ping)).status).toBe("ok");
  expect(readFileSync(join(folder, "environment"), "utf8")).toContain("HOME=/root\n");
});

test("the environment of SETUP lies in a file that root alone reads", async () => {
  const path = "/run/e2b/environment";
  await using link = await startAgent("--keep", program);
  await link.call(op.setup, [
    [tag.env, "ONE=1"],
    [tag.env, "TWO=a\nb"],
  ]);
  await link.call(op.ping);
  expect(readFileSync(path, "utf8")).toBe("ONE=1\0TWO=a\nb\0");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  await link.call(op.setup, [[tag.count, 0]]);
  await link.call(op.ping);
  expect(readFileSync(path, "utf8")).toBe("");
  rmSync(path);
});

test("an agent whose disk has no such program keeps none and writes no environment", async () => {
  await using link = await startAgent("--keep", join(folder, "missing"));
  await link.call(op.setup, [[tag.env, "ONE=1"]]);
  await link.call(op.ping);
  expect(existsSync("/run/e2b/environment")).toBe(false);
});
