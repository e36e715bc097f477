/** One daemon for every test file of this folder: making a base template takes longer than most of the tests. */
import type { TestProject } from "vitest/node";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/real-daemon.ts";

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
  const daemon: RealDaemon = await startDaemon();
  const { url, apiKey, stateDir, pid } = daemon;
  project.provide("daemon", { url, apiKey, stateDir, pid });
  return async () => {
    await daemon[Symbol.asyncDispose]();
  };
}
