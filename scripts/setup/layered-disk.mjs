/**
 * A root disk that is another one with files added: the image is copied, which a file system with reflinks does at
 * once, and debugfs writes the files into the copy. It needs no mount, and therefore no root.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";

/** The time of every file that is added, in seconds, so that equal trees make equal disks. */
export const fileTime = 1_700_000_000;

/**
 * Makes a disk.
 * @param {object} work
 * @param {string} work.from The image to begin with; it stays as it is.
 * @param {string} work.tree Folder whose content is added below `/`, as files of root with the modes that they have.
 * @param {string} work.image Path of the new image.
 * @param {string} work.scratch
 * @param {import("./graph.mjs").StepContext} context
 */
export async function layerDisk({ from, tree, image, scratch }, { signal, onLine }) {
  await run("cp", ["--sparse=always", "--reflink=auto", from, image], { signal });
  fs.chmodSync(image, 0o600);
  const script = join(scratch, "debugfs");
  fs.writeFileSync(script, `${commandsFor(tree, image).join("\n")}\n`);
  onLine("writing the files into the disk");
  // debugfs goes on after an error and ends with 0. It prints its version, its commands, and the inode of each new file.
  /** @type {string | undefined} */
  let problem;
  await run("debugfs", ["-w", "-f", script, image], {
    env: { E2FSPROGS_FAKE_TIME: String(fileTime) },
    signal,
    onLine: (line) => {
      if (!/^debugfs( \d|: )|^Allocated inode: /.test(line)) problem ??= line;
    },
  });
  if (problem !== undefined) throw new Error(`debugfs cannot write ${image}: ${problem}`);
  await run("e2fsck", ["-f", "-n", image], { signal, onLine });
}

/**
 * @param {string} tree
 * @param {string} image
 */
function commandsFor(tree, image) {
  /** @type {string[]} */
  const commands = [];
  const visit = (/** @type {string} */ path) => {
    const entries = fs.readdirSync(join(tree, path), { withFileTypes: true });
    for (const entry of entries) {
      const inDisk = `${path}/${entry.name}`;
      const mode = fs.lstatSync(join(tree, inDisk)).mode & 0o7777;
      if (entry.isDirectory()) {
        if (!isInDisk(image, inDisk)) {
          commands.push(`mkdir ${quoted(inDisk)}`, `sif ${quoted(inDisk)} mode 0${(0o40000 | mode).toString(8)}`);
        }
        visit(inDisk);
      } else if (entry.isFile()) {
        commands.push(`cd ${quoted(path || "/")}`, `write ${quoted(join(tree, inDisk))} ${quoted(entry.name)}`);
        commands.push(`sif ${quoted(entry.name)} mode 0${(0o100000 | mode).toString(8)}`);
      } else {
        throw new Error(`${inDisk} is neither a file nor a folder`);
      }
    }
  };
  visit("");
  return commands;
}

/** @type {Map<string, boolean>} */
const known = new Map();

/**
 * Whether the image has the folder. Below one that is missing nothing is asked.
 * @param {string} image
 * @param {string} path
 */
function isInDisk(image, path) {
  const key = `${image}:${path}`;
  const above = path.slice(0, path.lastIndexOf("/"));
  if (above !== "" && known.get(`${image}:${above}`) === false) return known.set(key, false) && false;
  const answer = execFileSync("debugfs", ["-R", `stat ${quoted(path)}`, image], { encoding: "utf8", stdio: "pipe" });
  const found = answer.includes("Type: directory");
  known.set(key, found);
  return found;
}

/** @param {string} text */
function quoted(text) {
  if (/["\n\\]/.test(text)) throw new Error(`debugfs takes no such name: ${text}`);
  return `"${text}"`;
}
