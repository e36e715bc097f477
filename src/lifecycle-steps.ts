/**
 * The named steps of everything that changes sandboxes, warm machines and templates: the places where a crash leaves
 * something to the next daemon. The fault suite stops or kills a daemon at each of them; no client can.
 */
import { readFileSync, rmSync } from "node:fs";

/**
 * `reserved`, `registered`: written down, nothing else happened. `launched`: a machine runs that the ledger does not know
 * yet. `stopped`: by its engine, to be saved. `saved`: the snapshot's folder is whole. `ended`, `gone`: there is no
 * machine any more, the ledger does not know yet. `running`, `ready`, `published`, `released`: done, nobody was told.
 */
export const lifecycleSteps = [
  ...(["create.reserved", "create.launched", "create.recorded", "create.probed", "create.running"] as const),
  ...(["pool.checked_out", "pool.identified", "pool.running"] as const),
  ...(["refill.reserved", "refill.launched", "refill.recorded", "refill.probed", "refill.warmed"] as const),
  "refill.ready",
  ...(["pause.registered", "pause.stopped", "pause.saved", "pause.ended", "pause.published"] as const),
  ...(["resume.reserved", "resume.launched", "resume.recorded", "resume.probed", "resume.running"] as const),
  ...(["fork.registered", "fork.stopped", "fork.saved", "fork.published"] as const),
  ...(["fork.reserved", "fork.launched", "fork.recorded", "fork.probed", "fork.running"] as const),
  ...(["snapshot.registered", "snapshot.stopped", "snapshot.saved", "snapshot.published"] as const),
  ...(["followup.reserved", "followup.launched", "followup.recorded", "followup.probed", "followup.running"] as const),
  ...(["build.reserved", "build.launched", "build.recorded", "build.prepared", "build.registered"] as const),
  ...(["build.stopped", "build.saved", "build.ended", "build.published"] as const),
  ...(["kill.decided", "kill.gone", "kill.released"] as const),
] as const;

export type LifecycleStep = (typeof lifecycleSteps)[number];

/** Told of every step that was just reached. */
export type ReachStep = (step: LifecycleStep) => void;

/** What restores are for, where what they leave after a crash depends on it. */
export type RestoreScenario = "create" | "refill" | "resume" | "fork" | "followup";

/** What a session is saved for. */
export type CaptureScenario = "pause" | "fork" | "snapshot";

/**
 * @param orderFile in test runs alone: a file that names a step and a signal, `pause.saved SIGKILL`. The daemon sends itself
 *   that signal, once, when it is at that step; SIGSTOP gives whoever ordered it time to break something else.
 */
export function watchSteps(orderFile: string | undefined): ReachStep {
  if (orderFile === undefined) return () => {};
  return (step) => {
    const signal = readOrder(orderFile).get(step);
    if (!signal) return;
    rmSync(orderFile);
    process.kill(process.pid, signal);
  };
}

function readOrder(path: string): Map<string, "SIGKILL" | "SIGSTOP"> {
  try {
    const [step = "", signal] = readFileSync(path, "utf8").trim().split(" ");
    return new Map(signal === "SIGKILL" || signal === "SIGSTOP" ? [[step, signal]] : []);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Map();
    throw error;
  }
}
