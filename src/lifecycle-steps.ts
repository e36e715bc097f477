/**
 * The lifecycle steps are named points in the operations that change sandboxes, warm machines and templates: the points
 * at which a crash leaves remains for the next daemon. The fault suite stops or kills a daemon at each of them. A
 * client cannot.
 */
import { readFileSync, rmSync } from "node:fs";

/**
 * `reserved`, `registered`: the ledger is written, and nothing else has happened. `launched`: a machine runs that the
 * ledger does not have yet. `stopped`: the engine stopped the machine for a save. `saved`: the snapshot's folder is
 * whole. `ended`, `gone`: there is no machine any more, which the ledger does not have yet. `running`, `ready`,
 * `published`, `released`: the operation is done, and no client knows it.
 */
export const lifecycleSteps = [
  "create.reserved",
  "create.launched",
  "create.recorded",
  "create.probed",
  "create.running",
  "pool.checked_out",
  "pool.identified",
  "pool.running",
  "refill.reserved",
  "refill.launched",
  "refill.recorded",
  "refill.probed",
  "refill.warmed",
  "refill.ready",
  "pause.registered",
  "pause.stopped",
  "pause.saved",
  "pause.published",
  "pause.ended",
  "resume.reserved",
  "resume.launched",
  "resume.recorded",
  "resume.probed",
  "resume.running",
  "fork.registered",
  "fork.stopped",
  "fork.saved",
  "fork.published",
  "fork.reserved",
  "fork.launched",
  "fork.recorded",
  "fork.probed",
  "fork.running",
  "snapshot.registered",
  "snapshot.stopped",
  "snapshot.saved",
  "snapshot.published",
  "followup.reserved",
  "followup.launched",
  "followup.recorded",
  "followup.probed",
  "followup.running",
  "image.resolved",
  "image.blob",
  "image.disk",
  "image.booted",
  "build.reserved",
  "build.launched",
  "build.recorded",
  "build.layered",
  "build.prepared",
  "build.registered",
  "build.stopped",
  "build.saved",
  "build.ended",
  "build.published",
  "kill.decided",
  "kill.gone",
  "kill.released",
] as const;

export type LifecycleStep = (typeof lifecycleSteps)[number];

/** The steps of a template that the daemon makes by itself. Nobody asked for it, so its faults have no client. */
export const madeTemplateSteps = ["made.launched", "made.warmed", "made.stopped", "made.saved"] as const;

export type MadeTemplateStep = (typeof madeTemplateSteps)[number];

/** Called with every step that was just reached. */
export type ReachStep = (step: LifecycleStep | MadeTemplateStep) => void;

/** The operations that restore a machine, because the remains after a crash depend on the operation. */
export type RestoreScenario = "create" | "refill" | "resume" | "fork" | "followup";

/** The operations that save a session's machine. */
export type CaptureScenario = "pause" | "fork" | "snapshot";

/**
 * Watches for the step at which a test run wants a fault.
 * @param orderFile in test runs only: a file that names a step and a signal, `pause.saved SIGKILL`. The daemon sends
 *   itself that signal, once, at that step. SIGSTOP gives the test time to break something else.
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
