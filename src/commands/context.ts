/** The files that a COPY takes from the folder of a Dockerfile, as an archive with a name that its content decides. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join, posix } from "node:path";
import { promisify } from "node:util";
import { DomainError } from "../errors.ts";

const run = promisify(execFile);

export interface Archive {
  readonly path: string;
  /** In hexadecimal. */
  readonly hash: string;
}

/**
 * Writes the archive of one source of a COPY.
 * @param source a path in the folder; its last part may have `*`, `?` and `[…]`
 * @throws DomainError `invalid_argument` when there is no such file, `unsupported` for rules of .dockerignore beyond names
 */
export async function archiveSource(folder: string, source: string, target: string): Promise<Archive> {
  const path = posix.relative("/", posix.resolve("/", source)) || ".";
  const names = await matching(folder, path);
  if (names.length === 0) throw new DomainError("invalid_argument", `COPY: there is no ${source} in ${folder}`);
  // Equal files make equal archives, whenever they were written and whoever they belong to.
  const steady = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
  const excluded = await exclusions(folder);
  await run("tar", ["--create", "--file", target, "--directory", folder, ...steady, ...excluded, "--", ...names]);
  return hashed(target);
}

/** An archive by its content. */
export async function hashed(path: string): Promise<Archive> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return { path, hash: hash.digest("hex") };
}

async function matching(folder: string, path: string): Promise<string[]> {
  const { dir, base } = posix.parse(path);
  if (!/[*?[]/.test(base)) return existsSync(join(folder, path)) ? [path] : [];
  if (/[*?[]/.test(dir)) throw new DomainError("unsupported", `COPY: only the last part of ${path} may be a pattern`);
  const form = new RegExp(
    `^${base
      .replaceAll(/[.+^$(){}|\\]/g, "\\$&")
      .replaceAll("*", ".*")
      .replaceAll("?", ".")}$`,
  );
  const names = await readdir(join(folder, dir)).catch(() => []);
  return names.filter((name) => form.test(name)).map((name) => posix.join(dir, name));
}

/** The options of tar for .dockerignore. Leaving a rule out could copy a secret, so an unknown one is refused. */
async function exclusions(folder: string): Promise<string[]> {
  const text = await readFile(join(folder, ".dockerignore"), "utf8").catch(() => "");
  const rules = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
  const odd = rules.find((rule) => rule.startsWith("!") || /\*\*(?!\/)/.test(rule));
  if (odd) throw new DomainError("unsupported", `.dockerignore: firkin does not know the rule ${odd}`);
  return rules.flatMap((rule) => {
    const anywhere = rule.startsWith("**/");
    const pattern = rule
      .replace(/^\*\*\//, "")
      .replace(/^\.?\//, "")
      .replace(/\/$/, "");
    const how = anywhere ? "--no-anchored" : "--anchored";
    return [
      how,
      "--wildcards",
      "--no-wildcards-match-slash",
      `--exclude=${pattern}`,
      ...(anywhere ? [] : [`--exclude=./${pattern}`]),
    ];
  });
}
