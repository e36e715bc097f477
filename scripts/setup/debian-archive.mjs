/**
 * Debian's archive without Debian's tools: indices whose signature is checked against the keys in `debian-keys.asc`,
 * and which packages a list of packages needs. Whether those fit together is decided by dpkg, which installs them.
 */
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { debianArchives } from "./debian.mjs";
import { compareVersions } from "./debian-version.mjs";
import { download } from "./downloads.mjs";
import { SetupError } from "./setup-error.mjs";

/**
 * @typedef {object} Package
 * @property {string} name
 * @property {string} version
 * @property {string} url
 * @property {string} sha256
 *
 * @typedef {Package & { required: boolean, provides: string[], depends: string[][] }} IndexedPackage `depends`: of each
 *   inner list one is needed.
 */

/**
 * The newest version of each package of a Debian architecture.
 * @param {string} architecture
 * @param {string} folder For the indices.
 * @param {import("./graph.mjs").StepContext} context
 * @returns {Promise<Map<string, IndexedPackage>>}
 * @throws {SetupError} when an index is not signed by Debian, or is not the one that was signed
 */
export async function readArchive(architecture, folder, context) {
  /** @type {Map<string, IndexedPackage>} */
  const newest = new Map();
  const { archives, checksAge } = debianArchives();
  for (const { base, suite } of archives) {
    const fetchOne = async (/** @type {import("./downloads.mjs").Download} */ file) => {
      const [path = ""] = await download([file], join(folder, suite), context);
      return path;
    };
    const release = await fetchOne({ url: `${base}/dists/${suite}/InRelease` });
    const name = `main/binary-${architecture}/Packages.xz`;
    const signed = await signedText(fs.readFileSync(release, "utf8"));
    const sha256 = checksumIn(checksAge ? unexpired(signed, Date.now()) : signed, name);
    const index = await fetchOne({ url: `${base}/dists/${suite}/${name}`, sha256 });
    for (const found of parseIndex(await unpackXz(index), base)) {
      const other = newest.get(found.name);
      if (!other || compareVersions(found.version, other.version) > 0) newest.set(found.name, found);
    }
  }
  return newest;
}

/**
 * The text in a file compressed with xz.
 * @param {string} path
 */
async function unpackXz(path) {
  const { XzReadableStream } = /** @type {typeof import("xz-decompress")} */ (
    createRequire(import.meta.url)("xz-decompress")
  );
  return text(new XzReadableStream(Readable.toWeb(fs.createReadStream(path))));
}

/**
 * The text of a clear-signed message, if one of Debian's keys signed it.
 * @param {string} message
 */
export async function signedText(message) {
  const { readCleartextMessage, readKey, verify } = await import("openpgp");
  const armored = fs.readFileSync(new URL("debian-keys.asc", import.meta.url), "utf8").split(/^(?=-----BEGIN)/m);
  const verificationKeys = await Promise.all(armored.slice(1).map((armoredKey) => readKey({ armoredKey })));
  try {
    const cleartext = await readCleartextMessage({ cleartextMessage: message });
    const { data, signatures } = await verify({ message: cleartext, verificationKeys });
    await Promise.any(signatures.map(({ verified }) => verified));
    return data;
  } catch (error) {
    const reason = error instanceof AggregateError ? error.errors.join("; ") : error;
    throw new SetupError(
      `an index of Debian's archive is not signed by Debian: ${reason}`,
      "something between this machine and deb.debian.org alters files; try another network",
    );
  }
}

/**
 * A release file that is still valid. The one of the security updates is valid for a week, because an older one hides
 * newer updates.
 * @param {string} release
 * @param {number} nowMs
 */
export function unexpired(release, nowMs) {
  const until = /^Valid-Until: (.+)$/m.exec(release)?.[1];
  if (until === undefined || Date.parse(until) >= nowMs) return release;
  throw new SetupError(
    `an index of Debian's archive was valid until ${until} only`,
    "check that this machine's clock is right",
  );
}

/**
 * @param {string} release
 * @param {string} name
 */
function checksumIn(release, name) {
  const lines = release.slice(release.indexOf("\nSHA256:")).split("\n");
  const [sha256 = ""] =
    lines.map((line) => line.trim().split(/\s+/)).find(([sum = "", , path]) => path === name && sum.length === 64) ??
    [];
  if (!sha256) throw new Error(`Debian's release file has no ${name}`);
  return sha256;
}

/**
 * @param {string} index
 * @param {string} base
 * @returns {IndexedPackage[]}
 */
export function parseIndex(index, base) {
  return index
    .split("\n\n")
    .filter((paragraph) => paragraph.trim() !== "")
    .map((paragraph) => {
      const fields = new Map(
        [...paragraph.matchAll(/^([A-Za-z0-9-]+): (.*)$/gm)].map(([, name = "", value = ""]) => [name, value]),
      );
      const field = (/** @type {string} */ name) => fields.get(name) ?? "";
      return {
        name: field("Package"),
        version: field("Version"),
        url: `${base}/${field("Filename")}`,
        sha256: field("SHA256"),
        required: field("Essential") === "yes" || field("Priority") === "required",
        provides: alternatives(field("Provides")).flat(),
        depends: [...alternatives(field("Pre-Depends")), ...alternatives(field("Depends"))],
      };
    });
}

/**
 * The names in a field like `a (>= 1), b | c`, one list for each comma.
 * @param {string} field
 */
function alternatives(field) {
  return field
    .split(",")
    .filter((group) => group.trim() !== "")
    .map((group) => group.split("|").map((name) => name.trim().replace(/[ (:].*$/s, "")));
}

/**
 * The packages and all that they need, each after its needs unless packages need each other. Of alternatives it takes
 * the one that is wanted anyway, otherwise the first that exists.
 * @param {ReadonlyMap<string, IndexedPackage>} archive
 * @param {readonly string[]} names
 * @returns {Package[]}
 */
export function withDependencies(archive, names) {
  /** @type {Map<string, string[]>} */
  const providers = new Map();
  for (const { name, provides } of archive.values()) {
    for (const provided of provides) providers.set(provided, [...(providers.get(provided) ?? []), name]);
  }
  const wanted = new Set(names);
  /** @type {Set<string>} */
  const seen = new Set();
  /** @type {Package[]} */
  const ordered = [];
  const add = (/** @type {string} */ name) => {
    if (seen.has(name)) return;
    const found = archive.get(name);
    if (!found) throw new Error(`Debian has no package ${name}`);
    seen.add(name);
    for (const group of found.depends) add(choose(group, name));
    const { version, url, sha256 } = found;
    ordered.push({ name, version, url, sha256 });
  };
  const choose = (/** @type {string[]} */ group, /** @type {string} */ of) => {
    const known = group.flatMap((name) => (archive.has(name) ? [name] : (providers.get(name) ?? [])));
    const best = known.find((name) => wanted.has(name) || seen.has(name)) ?? known[0];
    if (!best) throw new Error(`${of} needs ${group.join(" or ")}, which Debian does not have`);
    return best;
  };
  for (const name of names) add(name);
  return ordered;
}

/**
 * Debian's essential and required packages: what every installation has.
 * @param {ReadonlyMap<string, IndexedPackage>} archive
 */
export function requiredPackages(archive) {
  return [...archive.values()].filter(({ required }) => required).map(({ name }) => name);
}
