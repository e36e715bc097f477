/** Makes the next set-up fetch today's guest kernel and packages. */
import * as fs from "node:fs";
import { join } from "node:path";
import { storageRoots } from "./roots.mjs";

/** Forgets which kernel and root disk are current. Their files stay: snapshots may stand on them. */
export function forgetAssets() {
  const { assets } = storageRoots();
  for (const step of ["kernel", "base-disk"]) fs.rmSync(join(assets, "stamps", `${step}.json`), { force: true });
}
