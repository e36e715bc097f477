/** The shared daemon: one for all test files on real machines. Tests that start their own copy its prepared state. */
import { rm } from "node:fs/promises";
import type { TestProject } from "vitest/node";
import { usePreparedState } from "../support/daemon/base-template-state.ts";
import { missingForRealMachines, newStateDir, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";

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
  const prepared = await newStateDir();
  await (await startDaemon({ stateDir: prepared })).stop();
  usePreparedState(prepared);
  const daemon: RealDaemon = await startDaemon();
  const { url, apiKey, stateDir, pid } = daemon;
  project.provide("daemon", { url, apiKey, stateDir, pid });
  return async () => {
    await daemon[Symbol.asyncDispose]();
    await rm(prepared, { recursive: true, force: true });
  };
}
