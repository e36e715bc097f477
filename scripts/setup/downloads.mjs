/** Files from the internet by URL, fetched by the system's own client: apt's on Debian, curl on macOS. */
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { run } from "./command.mjs";
import { hashOf, partialName } from "./files.mjs";
import { SetupError } from "./setup-error.mjs";

/**
 * @typedef {object} Download
 * @property {string} url
 * @property {string} [sha256] Checksum that the file must have; hex.
 */

const aptHelper = "/usr/lib/apt/apt-helper";
/** How many files one call fetches, because the length of a command line is limited. */
const batchSize = 100;

/**
 * Fetches files into `folder`, those with a checksum only where they are not there yet, and returns their paths.
 * @param {readonly Download[]} files
 * @param {string} folder
 * @param {Pick<import("./graph.mjs").StepContext, "signal" | "onLine">} context
 * @returns {Promise<string[]>}
 * @throws {SetupError} when a file cannot be fetched or does not have its checksum
 */
export async function download(files, folder, { signal, onLine }) {
  fs.mkdirSync(folder, { recursive: true });
  const wanted = files.map((file) => ({ ...file, path: join(folder, basename(file.url)) }));
  const missing = wanted.filter(
    ({ path, sha256 }) => !sha256 || !fs.existsSync(path) || hashOf(fs.readFileSync(path)) !== sha256,
  );
  for (let at = 0; at < missing.length; at += batchSize) {
    const batch = missing.slice(at, at + batchSize);
    const [command, args] = fetchCommand(batch.map(({ url, path }) => ({ url, path: partialName(path) })));
    const { origin } = new URL(batch[0]?.url ?? "");
    const upgrade = "where a version has left the archive, npx firkin setup --upgrade takes today's";
    const remedy = `check that this machine reaches ${origin}; ${upgrade}`;
    await run(command, args, { signal, onLine, remedy });
    for (const { path, sha256, url } of batch) {
      const found = hashOf(fs.readFileSync(partialName(path)));
      if (sha256 && found !== sha256) {
        fs.rmSync(partialName(path));
        throw new SetupError(`${url} is not the file that Debian's index names: its SHA-256 is ${found}`, remedy);
      }
      fs.renameSync(partialName(path), path);
    }
  }
  return wanted.map(({ path }) => path);
}

/**
 * @param {readonly { url: string, path: string }[]} files
 * @returns {[command: string, args: string[]]}
 */
function fetchCommand(files) {
  if (fs.existsSync(aptHelper)) {
    const unsandboxed = ["-o", "APT::Sandbox::User=root"];
    return [aptHelper, [...unsandboxed, "download-file", ...files.flatMap(({ url, path }) => [url, path, ""])]];
  }
  const options = ["--fail", "--location", "--silent", "--show-error", "--retry", "3", "--parallel"];
  return ["curl", [...options, ...files.flatMap(({ url, path }) => ["--output", path, url])]];
}
