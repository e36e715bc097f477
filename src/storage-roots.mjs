/**
 * The storage roots are the two folders below which firkin keeps everything on this machine: state that matters, and a
 * cache that can be built again. They are never below TMPDIR, which hosts empty. This file is plain JavaScript because
 * the set-up reads it before anything is compiled.
 */
import { homedir } from "node:os";
import { join } from "node:path";

/** Ledger, keys, snapshots, sockets. */
export const defaultStateDir = join(homedir(), ".firkin", "state");

/** Guest kernels, root disks, downloads, logs of the set-up. */
export const defaultCacheDir = join(homedir(), ".firkin", "cache");
