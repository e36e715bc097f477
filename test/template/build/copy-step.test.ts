/** The step COPY with the real agent as a process of this host: everything happens in a folder of the test. */
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { systemClock } from "../../../src/clock.ts";
import { copyFiles } from "../../../src/template/build/copy-step.ts";
import { BuildLog } from "../../../src/template/build/log.ts";
import type { BuildStep } from "../../../src/template/build/spec.ts";
import { startLocalAgent } from "../../support/guest/local-agent.ts";

/** Makes an archive of `files` as the SDK does, copies it, and lists what is in the working directory then. */
async function copy(
  files: Readonly<Record<string, string>>,
  [source, destination]: readonly [string, string],
  options: { mode?: string; before?: Readonly<Record<string, string>>; gzip?: boolean } = {},
): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "firkin-copy-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const [context, workdir, archive] = ["context", "work", "archive"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await mkdir(workdir);
  await write(context, files);
  await write(workdir, options.before ?? {});
  execFileSync("tar", [options.gzip === false ? "-cf" : "-czf", archive, "-C", context, ...Object.keys(files)]);
  await using local = await startLocalAgent();
  const build = { agent: local.agent, log: new BuildLog(systemClock), signal: new AbortController().signal };
  const step: BuildStep = { type: "COPY", source, destination, owner: "", mode: options.mode ?? "", filesHash: "" };
  await copyFiles(build, step, { envs: {}, user: "root", workdir }, archive);
  const list = execFileSync("find", [".", "-mindepth", "1", "-printf", "%P %y%m %l\n"], { cwd: workdir }).toString();
  return list
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .sort();
}

async function write(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    if (content.startsWith("->")) await symlink(content.slice(2), path);
    else await writeFile(path, content, { mode: 0o644 });
  }
}

test("a file gets the name of the destination, or goes into it", async () => {
  expect(await copy({ a: "1" }, ["a", "b/c"])).toEqual(["b d755", "b/c f644"]);
  expect(await copy({ a: "1" }, ["a", "b/"], { gzip: false })).toEqual(
    ["a f644", "b d755"].map((line) => line.replace("a f", "b/a f")).sort(),
  );
  expect(await copy({ a: "1" }, ["./a", "b"], { before: { "b/x": "" } })).toEqual(["b d755", "b/a f644", "b/x f644"]);
});

test("a folder's content is merged into the destination", async () => {
  const files = { "src/one": "1", "src/deep/two": "2" };
  const before = { "app/old": "", "app/deep/three": "3" };
  expect(await copy(files, ["src", "app"], { before })).toEqual(
    ["app d755", "app/deep d755", "app/deep/three f644", "app/deep/two f644", "app/old f644", "app/one f644"].sort(),
  );
  expect(await copy(files, [".", "app"])).toContain("app/src/one f644");
});

test("a pattern may mean many, hidden and oddly named ones too", async () => {
  const files = { "a b.txt": "1", ".hidden.txt": "2", "deep/c.txt": "3", "other.md": "4" };
  expect(await copy(files, ["**/*.txt", "all"])).toEqual(
    ["all d755", "all/.hidden.txt f644", "all/a b.txt f644", "all/c.txt f644"].sort(),
  );
});

test("links stay links, and a mode is for everything below a folder", async () => {
  expect(await copy({ a: "1", link: "->a", "d/e/x": "" }, ["*", "to"], { mode: "750" })).toEqual(
    ["to d755", "to/a f750", "to/link l777 a", "to/e d750", "to/e/x f750"].sort(),
  );
});

test("a folder of very many files is copied whole", async () => {
  const names = Array.from({ length: 450 }, (_, index) => `d/${index}`);
  const files = Object.fromEntries(names.map((name) => [name, ""]));
  expect(await copy(files, ["d", "to"])).toHaveLength(451);
});

test("a source that begins with a slash, or leads upwards, is in the archive all the same", async () => {
  expect(await copy({ a: "1" }, ["/a", "b"])).toEqual(["b f644"]);
  expect(await copy({ a: "1" }, ["../../a", "b"])).toEqual(["b f644"]);
});

test("a missing file is named", async () => {
  await expect(copy({ a: "1" }, ["b*", "c"])).rejects.toThrow("failed to copy 'b*' to 'c': no file matches 'b*'");
});
