/**
 * Guest jobs: work that only Linux can do, done by a Linux that is booted for it. A job's microVM has an initramfs
 * with unpacked Debian packages and the job's files, and one empty disk. Its results are on that disk, and in the
 * outbox at the end of the disk. So a Mac without Docker makes the files of guests with the engine that will run
 * them, and Linux runs the same jobs on QEMU.
 */
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { run } from "./command.mjs";
import { cpioArchive } from "./cpio.mjs";
import { download } from "./downloads.mjs";
import { hookPath } from "./kernel.mjs";
import { SetupError } from "./setup-error.mjs";

/**
 * @typedef {import("./graph.mjs").StepContext} StepContext
 * @typedef {import("./debian-archive.mjs").Package} Package
 *
 * @typedef {object} Machine What a machine is started with.
 * @property {string} kernel
 * @property {string} initramfs
 * @property {string} commandLine
 * @property {string} disk A raw image, whose end is the outbox.
 * @property {string} folder For the machine's own files.
 *
 * @typedef {(machine: Machine, context: StepContext) => Promise<void>} Boot Returns when the machine has powered
 *   itself off.
 *
 * @typedef {object} GuestHost Where jobs are run.
 * @property {import("./roots.mjs").Roots} roots
 * @property {import("./kernel.mjs").KernelAsset} kernel
 * @property {Boot} boot
 *
 * @typedef {object} Job
 * @property {string} script The file that `sh -eu` runs as /job/run.sh. It leaves its results in /outbox.
 * @property {readonly Package[]} tools Unpacked, not installed.
 * @property {Readonly<Record<string, string>>} files Further files in /job: name there → path here.
 * @property {number} diskMiB
 */

/** libarchive's tar, which reads Debian packages and converts archives. The tar of macOS is that program. */
export const bsdtar = process.platform === "darwin" ? "/usr/bin/tar" : "bsdtar";

/** A Mac's tar adds files of its own to archives otherwise, and takes names for ASCII. */
const tarEnv = process.platform === "darwin" ? { COPYFILE_DISABLE: "1", LC_ALL: "en_US.UTF-8" } : {};
const outboxMiB = 16;
/**
 * A panic resets the machine at once. On QEMU that is its end, without an outbox. On Apple's framework the job would begin
 * anew, which vz-boot.ts notices.
 */
const commandLine = "panic=-1 loglevel=4 rdinit=/init";
const bytesPerMiB = 2 ** 20;

/**
 * Runs a job on a new disk of `diskMiB`, the image `disk`, and hands its outbox to `take`.
 * @param {GuestHost} host
 * @param {Job} job
 * @param {string} disk
 * @param {StepContext} context
 * @param {(outbox: string) => unknown} take
 * @throws {SetupError} when the job fails; the message quotes the end of its log
 */
export async function runGuestJob({ roots, kernel, boot }, job, disk, context, take) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const folder = fs.mkdtempSync(join(roots.scratch, "job-"));
  try {
    const initramfs = join(folder, "initramfs");
    context.onLine("packing the initramfs of the guest job");
    const tools = await unpackTools(roots, job.tools, folder, context);
    fs.writeFileSync(initramfs, Buffer.concat([jobArchive(job, kernel.modules), fs.readFileSync(tools)]));
    fs.writeFileSync(disk, "");
    fs.truncateSync(disk, (job.diskMiB + outboxMiB) * bytesPerMiB);
    const machine = { kernel: kernel.vmlinuz, initramfs, commandLine, disk, folder };
    context.onLine("the guest job runs");
    await boot(machine, context);
    const outbox = join(folder, "outbox");
    await unpackOutbox(disk, job.diskMiB, outbox, context);
    const log = fs.readFileSync(join(outbox, "log"), "utf8");
    if (fs.readFileSync(join(outbox, "status"), "utf8").trim() !== "0") {
      throw new SetupError(`${basename(job.script)} failed in the guest; its log ends:\n${log.slice(-4000)}`);
    }
    fs.truncateSync(disk, job.diskMiB * bytesPerMiB);
    await take(outbox);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The first archive of the initramfs, with the job's own files. The kernel unpacks one archive after the other.
 * @param {Job} job
 * @param {readonly string[]} modules
 */
function jobArchive({ script, files, diskMiB }, modules) {
  const paths = { "run.sh": script, ...files };
  const folders = [
    "dev",
    "proc",
    "sys",
    "job",
    ...foldersOf(Object.keys(paths).map((name) => `job/${name}`)),
    "modules",
  ];
  const moduleFiles = modules.map((path) => ({ name: `modules/${basename(path)}`, path }));
  const list = moduleFiles.map(({ name }) => `/${name}\n`).join("");
  const all = [...Object.entries(paths).map(([name, path]) => ({ name: `job/${name}`, path })), ...moduleFiles];
  return cpioArchive([
    ...[...new Set(folders)].map((path) => ({ path, mode: 0o755 })),
    { path: "dev/console", mode: 0o600, device: /** @type {const} */ ([5, 1]) },
    { path: "init", mode: 0o755, data: fs.readFileSync(hookPath("guest-job.sh")) },
    { path: "modules.list", mode: 0o644, data: Buffer.from(list) },
    { path: "job/settings", mode: 0o644, data: Buffer.from(`FIRKIN_DISK_MIB=${diskMiB}\n`) },
    ...all.map(({ name, path }) => ({ path: name, mode: 0o644, data: fs.readFileSync(path) })),
  ]);
}

/**
 * The folders of files, parents first.
 * @param {readonly string[]} names
 */
function foldersOf(names) {
  return names.flatMap((name) => {
    const parts = name.split("/").slice(0, -1);
    return parts.map((_, index) => parts.slice(0, index + 1).join("/"));
  });
}

/**
 * One cpio archive of the contents of packages. They are not unpacked here, because a Mac's file system knows no
 * Linux owners and takes two names that differ in case for one.
 * @param {import("./roots.mjs").Roots} roots
 * @param {readonly Package[]} packages
 * @param {string} folder
 * @param {StepContext} context
 */
async function unpackTools(roots, packages, folder, context) {
  const { signal, onLine } = context;
  /** @type {string[]} */
  const trees = [];
  for (const path of await download(packages, roots.downloads, context)) {
    const inner = join(folder, "tools", basename(path));
    fs.mkdirSync(inner, { recursive: true });
    await run(bsdtar, ["-xf", path, "-C", inner, "data.tar.*"], { signal, onLine, env: tarEnv });
    trees.push(...fs.readdirSync(inner).map((name) => `@${join(inner, name)}`));
  }
  const tools = join(folder, "tools.cpio");
  const unneeded = ["doc", "man", "info", "locale"].map((name) => `--exclude=./usr/share/${name}/*`);
  await run(bsdtar, ["-cf", tools, "--format=newc", ...unneeded, ...trees], { signal, onLine, env: tarEnv });
  return tools;
}

/**
 * @param {string} disk
 * @param {number} diskMiB
 * @param {string} outbox
 * @param {StepContext} context
 */
async function unpackOutbox(disk, diskMiB, outbox, { signal, onLine }) {
  const bytes = Buffer.alloc(outboxMiB * bytesPerMiB);
  const file = fs.openSync(disk, "r");
  fs.readSync(file, bytes, 0, bytes.length, diskMiB * bytesPerMiB);
  fs.closeSync(file);
  if (!bytes.some((byte) => byte !== 0)) {
    throw new SetupError(
      "the machine of the guest job ended without an outbox",
      "see the log above for what the machine's console shows",
    );
  }
  fs.mkdirSync(outbox);
  fs.writeFileSync(`${outbox}.tar`, bytes);
  await run(bsdtar, ["-xf", `${outbox}.tar`, "-C", outbox], { signal, onLine, env: tarEnv });
}
