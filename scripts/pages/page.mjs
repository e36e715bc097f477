/**
 * Generated parts of pages in docs/: what a run measured or saw, between two markers that name the command. The files
 * here are called by the commands that measure; they call git and QEMU for their versions and nothing else.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { availableParallelism, release, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * The lines that stand above generated numbers: when, on what machine, from which commit. They name no host.
 * @param {string} engine The engine with its version and acceleration, as far as the caller knows.
 * @param {string} date ISO 8601.
 */
export function originLine(engine, date = new Date().toISOString()) {
  const machine = `${availableParallelism()} cores, ${(totalmem() / 2 ** 30).toFixed(0)} GiB of memory`;
  const system = `${distribution()}, kernel ${release()}, Node.js ${process.versions.node}`;
  return `${date.slice(0, 10)}, commit ${commit()}; ${engine};\n${machine}; ${system}.`;
}

/** QEMU and its version, as the program itself says it. */
export function qemuVersion() {
  const text = execFileSync("qemu-system-x86_64", ["--version"], { encoding: "utf8" });
  return `QEMU ${/version (\d+(\.\d+)+)/.exec(text)?.[1] ?? "of unknown version"}`;
}

/**
 * Replaces the part of a page that `command` generates.
 * @param {string} page Relative to the repository.
 * @param {string} command As it is typed, such as `npm run bench`.
 * @param {string} text Markdown.
 * @throws {Error} when the page lacks the command's markers; the page is then as before
 */
export function writeGenerated(page, command, text) {
  const path = join(repository(), page);
  const unfinished = `${path}.${process.pid}.partial`;
  writeFileSync(unfinished, withGenerated(readFileSync(path, "utf8"), command, text));
  renameSync(unfinished, path);
}

/**
 * A page with the part that `command` generates replaced.
 * @param {string} content
 * @param {string} command
 * @param {string} text
 * @throws {Error} when the content lacks the command's markers
 */
export function withGenerated(content, command, text) {
  const [opening, closing] = [`<!-- written by \`${command}\`: do not edit -->`, `<!-- end of \`${command}\` -->`];
  const [from, to] = [content.indexOf(opening), content.indexOf(closing)];
  if (from < 0 || to < from) throw new Error(`the page lacks the markers ${opening} and ${closing}, in this order`);
  return `${content.slice(0, from + opening.length)}\n\n${text.trim()}\n\n${content.slice(to)}`;
}

function distribution() {
  if (!existsSync("/etc/os-release")) return process.platform;
  return /^PRETTY_NAME="(.*)"$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "an unnamed Linux";
}

/** The commit that was measured; the pages themselves may differ from it. A copy without git's folder has none. */
function commit() {
  const git = (/** @type {string[]} */ ...args) =>
    spawnSync("git", ["-C", repository(), ...args], { encoding: "utf8" }).stdout?.trim() ?? "";
  const changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs");
  return `${git("rev-parse", "--short", "HEAD") || "unknown"}${changes === "" ? "" : " with changes"}`;
}

/** This file is compiled into dist/, too; the repository is the folder above that has the package. */
export function repository() {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    if (folder === dirname(folder))
      throw new Error(`no folder above ${fileURLToPath(import.meta.url)} has package.json`);
    folder = dirname(folder);
  }
  return folder;
}
