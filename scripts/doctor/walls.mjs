/** The walls of the jail: which of them this host allows between an engine and itself. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { distCurrent } from "../setup/build.mjs";

/**
 * One line for each wall; a wall that does not stand is advice, because the daemon serves without it.
 * @param {import("../setup/roots.mjs").Roots} roots
 * @returns {import("./doctor.mjs").Finding[]}
 */
export function checkWalls(roots) {
  if (!distCurrent(roots)) return [{ level: "info", what: "jail", detail: "is looked at once the daemon is built" }];
  const program = join(roots.repository, "dist/scripts/doctor/walls.js");
  const folders = [join(roots.state, "machines"), join(roots.cache, "qemu")];
  /** @type {{ walls?: { name: string, stands: boolean, detail: string }[], problem?: string }} */
  const { walls = [], problem } = JSON.parse(
    execFileSync(process.execPath, [program, ...folders], { encoding: "utf8" }),
  );
  if (problem !== undefined)
    return [{ level: "failed", what: "jail", detail: problem, remedy: "see docs/security.md" }];
  return walls.map(({ name, stands, detail }) => ({
    level: stands ? "ok" : "advice",
    what: `wall: ${name}`,
    detail: stands ? detail : `does not stand: ${detail}`,
    ...(stands ? {} : { remedy: "docs/security.md says what this wall keeps in" }),
  }));
}
