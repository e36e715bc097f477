/**
 * The shared daemon: one for all test files of a project on real machines. Tests that start their own copy its prepared
 * state. Where neither the project nor the caller names an engine, it is the one that `auto` chooses here.
 */
import { rm } from "node:fs/promises";
import type { TestProject } from "vitest/node";
import { newShortFolder } from "../short-folder.ts";
import { usePreparedState } from "./base-template-state.ts";
import { chooseEngine, type TestedEngine } from "./engine-processes.ts";
import { missingForRealMachines, newStateDir, type RealDaemon, startDaemon } from "./real-daemon.ts";

export interface SharedDaemon {
  readonly url: string;
  readonly apiKey: string;
  readonly stateDir: string;
  readonly pid: number;
}

declare module "vitest" {
  interface ProvidedContext {
    daemon: SharedDaemon | { readonly missing: string };
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const missing = missingForRealMachines();
  if (missing) {
    project.provide("daemon", { missing });
    return async () => {};
  }
  const named = project.config.env?.FIRKIN_TEST_ENGINE ?? process.env.FIRKIN_TEST_ENGINE;
  const args = ["--engine", named ?? "auto"];
  const prepared = await newShortFolder();
  const first = await startDaemon({ stateDir: prepared, args });
  const engine = await engineOf(first);
  await first.stop();
  usePreparedState(engine, prepared);
  // The tests' own daemons run the same one.
  if (named === undefined) chooseEngine(engine);
  const stateDir = await newStateDir(engine);
  const daemon: RealDaemon = await startDaemon({ stateDir, args: ["--engine", engine] });
  const { url, apiKey, pid } = daemon;
  project.provide("daemon", { url, apiKey, stateDir, pid });
  return async () => {
    await daemon[Symbol.asyncDispose]();
    for (const folder of [prepared, stateDir]) await rm(folder, { recursive: true, force: true });
  };
}

async function engineOf({ url }: RealDaemon): Promise<TestedEngine> {
  const response = await fetch(`${url}/health`, { headers: { accept: "application/json" } });
  return ((await response.json()) as { engine: TestedEngine }).engine;
}
