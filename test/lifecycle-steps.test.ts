/** An ordered fault strikes once, at its step alone. Without an order file no file is read. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { lifecycleSteps, madeTemplateSteps, watchSteps } from "../src/lifecycle-steps.ts";

const source = fileURLToPath(new URL("../src/lifecycle-steps.ts", import.meta.url));
const steps = [...lifecycleSteps, ...madeTemplateSteps];
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-steps-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A process that comes to two steps and says when it has passed each. */
function comesToTwoSteps(order: string) {
  const program = `
    const { watchSteps } = await import(${JSON.stringify(source)});
    const reach = watchSteps(${JSON.stringify(order)});
    for (const step of ["create.reserved", "create.launched"]) { reach(step); console.log(step); }`;
  return spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], { encoding: "utf8" });
}

test("a process ends itself at the step that was ordered, and the order is used up", async () => {
  const order = join(folder, "order");
  await writeFile(order, "create.launched SIGKILL");
  expect(comesToTwoSteps(order)).toMatchObject({ signal: "SIGKILL", stdout: "create.reserved\n" });
  expect(existsSync(order)).toBe(false);
  expect(comesToTwoSteps(order)).toMatchObject({ status: 0, stdout: "create.reserved\ncreate.launched\n" });
});

test("a malformed order, or a missing order file, is no order", async () => {
  const order = join(folder, "odd");
  await writeFile(order, "create.reserved SIGTERM");
  const reach = watchSteps(order);
  for (const step of steps) reach(step);
  for (const step of steps) watchSteps(undefined)(step);
  expect(existsSync(order)).toBe(true);
});

test("every step has its own name", () => {
  expect(new Set(steps).size).toBe(steps.length);
});
