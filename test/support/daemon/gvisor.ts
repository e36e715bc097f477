/** What the tests of the gvisor engine start it with. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "./real-daemon.ts";

/** As the set-up makes it, or one that is to be tried. */
export const runsc = process.env.FIRKIN_RUNSC ?? join(cacheDir(), "assets", "gvisor", "runsc");

/** Why the engine cannot be run here, or undefined. */
export function missingForGvisor(): string | undefined {
  if (process.getuid?.() !== 0) return "only root can start its machines";
  return existsSync(runsc) ? undefined : "there is no runsc: its set-up step says why";
}
