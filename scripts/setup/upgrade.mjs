/** The upgrade of guests: it makes the next set-up fetch the day's guest kernel and packages. */
import * as fs from "node:fs";
import { join } from "node:path";
import { storageRoots } from "./roots.mjs";

/** Forgets which kernel and root disk are current. Their files stay, because snapshots may stand on them. */
export function forgetAssets() {
  const { assets, downloads } = storageRoots();
  const steps = ["kernel", "base-disk", "debian-arm64", "kernel-arm64", "base-disk-arm64"];
  for (const step of steps) fs.rmSync(join(assets, "stamps", `${step}.json`), { force: true });
  fs.rmSync(downloads, { recursive: true, force: true });
}
