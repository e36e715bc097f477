/** The engine gvisor: whether it would serve here, which nothing needs where another engine does. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { distCurrent } from "../setup/build.mjs";
import { currentRunsc } from "../setup/runsc.mjs";

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @returns {import("./doctor.mjs").Finding}
 */
export function checkGvisor(roots) {
  const what = "engine gvisor";
  const own = process.env.FIRKIN_RUNSC;
  const made = currentRunsc(roots);
  if (own === undefined && made === undefined) {
    return { level: "info", what, detail: "is not set up: npx firkin setup --engine gvisor" };
  }
  if (own === undefined && made?.reason !== undefined) {
    return { level: "info", what, detail: `cannot be set up here: ${made.reason}` };
  }
  const program = join(roots.repository, "dist/scripts/doctor/gvisor.js");
  if (!distCurrent(roots) || !existsSync(program)) {
    return { level: "info", what, detail: "is tried out once the daemon is built" };
  }
  const args = [program, roots.cache, own ?? String(made?.runsc)];
  /** @type {{ version?: string, weak?: string[], problem?: string }} */
  const { version, weak = [], problem } = JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
  if (problem !== undefined) return { level: "info", what, detail: `does not work here: ${problem}` };
  return { level: "ok", what, detail: [`runsc ${version} has booted a machine`, ...weak].join("; ") };
}

const idleProcessors = "/sys/devices/system/cpu/cpuidle/current_governor";
const pollTimeFile = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
const usualPollNs = 200_000;

/**
 * A guest of gVisor and gVisor itself wake each other at every call. Where the host is a virtual machine, a processor
 * that has just become idle may look out for work for a moment before it halts, which makes that far cheaper; Linux does
 * so unless it is told not to.
 * @param {(path: string) => string | undefined} [read] what a file has; undefined: there is none
 * @returns {import("./doctor.mjs").Finding[]} nothing where there is nothing to say
 */
export function checkHaltPolling(read = readIfThere) {
  if (read(idleProcessors)?.trim() !== "haltpoll" || read(pollTimeFile)?.trim() !== "0") return [];
  return [
    {
      level: "advice",
      what: "idle processors",
      detail: "halt at once, so that commands in sandboxes of gVisor take up to a third longer",
      remedy: `as root, until the next boot: echo ${usualPollNs} > ${pollTimeFile}`,
    },
  ];
}

/** @param {string} path */
function readIfThere(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}
