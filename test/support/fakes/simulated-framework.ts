/**
 * The simulated framework under the vz engine: the helper that set-up built, a file beside it that names the guest
 * agent, and a small disk made from the base disk. Guests are local processes of the same instruction set as this host.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, link, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { z } from "zod";
import { cacheDir } from "../daemon/real-daemon.ts";

const run = promisify(execFile);

const swiftStamp = z.object({ result: z.object({ root: z.string().optional(), reason: z.string().optional() }) });
const helperStamp = z.object({ result: z.object({ helper: z.string() }) });
const assetsSchema = z.object({ agent: z.string(), baseDisk: z.string() });

const readJson = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, "utf8"));
const stamp = (name: string) => join(cacheDir(), "assets/stamps", `${name}.json`);

/** Why the simulated framework cannot be run here, or undefined. */
export async function missingForSimulation(): Promise<string | undefined> {
  if (!existsSync(join(cacheDir(), "assets/assets.json"))) return "there are no guest assets";
  const swift = swiftStamp.safeParse(await readJson(stamp("swift-root")).catch(() => undefined));
  if (!swift.success) return "Swift was not set up: run npm test once";
  if (!swift.data.result.root) return `no Swift here: ${swift.data.result.reason}`;
  return existsSync(stamp("swift-helper")) ? undefined : "the helper was not built: run npm test once";
}

/** The behaviour of the simulated Mac. */
export interface SimulatedSettings {
  /** Whether one saved state runs as several machines. Default false, as nobody has seen it on a Mac. */
  readonly fanOut?: boolean;
  /** The shortest duration of a save, ms. */
  readonly saveMs?: number;
  /** How long an ended machine keeps its identity, and one goes on whose helper was killed, ms. Default 200. */
  readonly lagMs?: number;
  /** Calls that the framework refuses, such as `save`, and devices with which it restores nothing, such as `entropy`. */
  readonly refuse?: readonly string[];
}

export interface SimulatedFramework {
  /** The executable of the helper. */
  readonly helper: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly baseDisk: string;
  /** Changes the settings beside the helper's executable. Helpers that start later see them. */
  readonly set: (settings: SimulatedSettings) => Promise<void>;
  /** Locks or unlocks the screen of the simulated Mac. */
  readonly lockScreen: (locked: boolean) => Promise<void>;
  /** Locks the screen in the moment of the next save or restore, after the helper has looked at it. */
  readonly lockScreenSoon: () => Promise<void>;
}

/** A simulated Mac of a test's own in `folder`, which must not exist. */
export async function simulateFramework(folder: string, settings: SimulatedSettings = {}): Promise<SimulatedFramework> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { agent, baseDisk } = assetsSchema.parse(await readJson(join(cacheDir(), "assets/assets.json")));
  const built = helperStamp.parse(await readJson(stamp("swift-helper"))).result.helper;
  const helper = join(folder, "firkin-vz");
  // Each test has an executable of its own, because the framework reads its settings beside it.
  await link(built, helper).catch(() => copyFile(built, helper));
  const set = (changes: SimulatedSettings) =>
    writeFile(`${helper}.simulated.json`, JSON.stringify({ agent, folder, ...settings, ...changes }));
  await set({});
  const kernel = join(folder, "Image");
  const header = Buffer.alloc(4096);
  header.write("ARM\u0064", 56, "latin1");
  await writeFile(kernel, header);
  return {
    helper,
    kernel,
    initramfs: kernel,
    set,
    baseDisk: await smallDisk(baseDisk),
    lockScreenSoon: () => writeFile(join(folder, "locks-soon"), ""),
    lockScreen: async (locked) => {
      const path = join(folder, "locked");
      if (locked) await writeFile(path, "");
      else if (existsSync(path)) await rename(path, join(folder, "unlocked"));
    },
  };
}

/** What no test on the simulated framework runs, and most of the base disk. Paths below its root, for the shell. */
const leftOut = [
  "usr/include usr/lib/gcc usr/lib/git-core usr/lib/modules usr/local/lib/* usr/share/doc usr/share/vim",
  "usr/bin/gh usr/bin/x86_64-linux-gnu-* usr/lib/x86_64-linux-gnu/*.a",
  "usr/lib/x86_64-linux-gnu/libicudata* usr/lib/x86_64-linux-gnu/lib?san*",
].join(" ");

/**
 * The base disk's files without the largest, in an image of 512 MiB, made once per base disk. A program that does nothing
 * stands in for Node.js, which the warm-up of a template starts. The disk is small because every machine clones its disk,
 * which copies it on a file system without reflinks, and because a full check reads all of it.
 */
async function smallDisk(baseDisk: string): Promise<string> {
  const path = join(cacheDir(), "assets/swift", `small-512-${baseDisk.replace(/.*-|\.ext4/g, "")}.ext4`);
  if (existsSync(path)) return path;
  const unfinished = `${path}.${process.pid}.partial`;
  const script = `
    mkdir "$2.d"
    mount -t tmpfs none "$2.d"
    cd "$2.d"
    mkdir lower upper work root
    mount -o loop,ro,noload "$1" lower
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root
    (cd root && rm -rf ${leftOut} && printf '#!/bin/sh\\n' > usr/local/bin/node)
    mke2fs -q -t ext4 -m 0 -J size=8 -E lazy_itable_init=0,lazy_journal_init=0 -d root "$2" 512M`;
  await run("unshare", ["--mount", "sh", "-ec", script, "sh", baseDisk, unfinished]);
  await run("rmdir", [`${unfinished}.d`]);
  await rename(unfinished, path);
  return path;
}
