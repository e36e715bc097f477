/** The commands about templates, against a control plane without machines. */
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ControlApi } from "../../src/commands/api.ts";
import { archiveSource } from "../../src/commands/context.ts";
import { runTemplateCommand } from "../../src/commands/templates.ts";
import { DomainError } from "../../src/errors.ts";
import { apiKey, type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";
import { openFakeTemplates } from "../support/fakes/fake-templates.ts";

let folder: string;
let givingUp: AbortController;
beforeEach(async () => {
  givingUp = new AbortController();
  folder = await mkdtemp(join(tmpdir(), "firkin-command-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function run(plane: ControlPlane, command: string, ...args: string[]) {
  const url = (await plane.app.listen({ host: "127.0.0.1", port: 0 })).replace(/\/$/, "");
  const lines: string[] = [];
  const say = (line: string) => lines.push(line);
  const error = await runTemplateCommand(command, args, new ControlApi(url, apiKey), say, givingUp.signal).then(
    () => undefined,
    (reason: unknown) => reason as Error,
  );
  return { lines, error };
}

test("a Dockerfile reaches the daemon as an image and steps, and its log and failure come back", async () => {
  const asked: string[] = [];
  const images = {
    prepare: async ({ reference }: { reference: string }) => {
      asked.push(reference);
      throw new DomainError("failed_precondition", "no image today");
    },
  };
  await using fake = openFakeTemplates({ images });
  await using plane = openControlPlane({ templates: fake.templates });
  await mkdir(join(folder, "site"));
  await writeFile(join(folder, "site", "page.html"), "x");
  await writeFile(join(folder, "Dockerfile"), "FROM python:3\nEXPOSE 80\nCOPY site /srv/site\nRUN true");
  const { lines, error } = await run(plane, "build", folder, "-t", "app:v1", "--cpu", "4", "--memory", "1024");
  expect(error?.message).toContain("no image today");
  expect(asked).toEqual(["python:3"]);
  expect(lines[0]).toBe("Dockerfile, line 2: EXPOSE changes nothing in a template");
  expect(lines.join("\n")).toContain("Build failed: no image today");
});

test("a person who gives up takes the build along", async () => {
  let hasBegun = false;
  const images = {
    prepare: async (_: object, __: unknown, signal: AbortSignal) => {
      hasBegun = true;
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
      throw new Error("it ends by its signal");
    },
  };
  await using fake = openFakeTemplates({ images });
  await using plane = openControlPlane({ templates: fake.templates });
  await writeFile(join(folder, "Dockerfile"), "FROM python:3");
  const running = run(plane, "build", folder, "-t", "app");
  await expect.poll(() => hasBegun).toBe(true);
  givingUp.abort(new DomainError("cancelled", "cancelled by SIGINT"));
  expect((await running).error?.message).toBe("cancelled by SIGINT");
  const [build] = fake.templates.get("app").builds;
  expect(build).toMatchObject({ state: "error", reason: { message: "the build was cancelled", step: "base" } });
});

test("templates are listed and deleted", async () => {
  await using plane = openControlPlane();
  const { lines } = await run(plane, "template", "list");
  expect(lines[0]).toMatch(/^NAME +ID +STATUS +CPU +MEMORY +CREATED$/);
  expect(lines[1]).toMatch(/^base +basetemplate +ready +2 vCPU +512 MiB/);
});

test("the cache of steps is pruned", async () => {
  await using plane = openControlPlane();
  expect((await run(plane, "builds", "prune")).lines).toEqual(["removed 0 steps, 0 MiB"]);
});

test.each([
  [["template"], "usage: firkin template"],
  [["template", "delete"], "usage: firkin template delete NAME"],
  [["template", "delete", "nobody"], "template 'nobody' not found"],
  [["template", "add", "cobol"], "the catalogue has no cobol; it has: node, python"],
  [["template", "add"], "of: node, python"],
  [["build", "."], "usage: firkin build"],
  [["build", "-t", "x", "--what"], "usage: firkin build"],
  [["build", "/nowhere", "-t", "x"], "there is no /nowhere"],
  [["build", "-t", "x", "--cpu", "many"], "--cpu takes a number"],
  [["builds"], "usage: firkin builds prune"],
])("%j is refused with what to write", async (args, message) => {
  await using plane = openControlPlane();
  const [command = "", ...rest] = args;
  expect((await run(plane, command, ...rest)).error?.message).toContain(message);
});

test("a daemon that is not there is named", async () => {
  const api = new ControlApi("http://127.0.0.1:1", "key");
  await expect(runTemplateCommand("template", ["list"], api, () => {}, givingUp.signal)).rejects.toThrow(
    "no daemon answers",
  );
});

test("equal files make equal archives, and .dockerignore keeps files out of them", async () => {
  await mkdir(join(folder, "src/deep"), { recursive: true });
  for (const name of ["src/a.txt", "src/b.md", "src/deep/.env", "src/.env"]) await writeFile(join(folder, name), name);
  const target = join(folder, "..", `${process.pid}.tar`);
  const archive = (source: string) => archiveSource(folder, source, target);
  const listed = () => execFileSync("tar", ["-tf", target]).toString().trim().split("\n");
  const { hash } = await archive("src");
  await utimes(join(folder, "src/a.txt"), 1, 1);
  expect((await archive("./src/")).hash).toBe(hash);
  await archive("src/*.txt");
  expect(listed()).toEqual(["src/a.txt"]);
  await writeFile(join(folder, ".dockerignore"), "# none\n**/.env\nsrc/b.md\n");
  await archive(".");
  expect(listed()).toEqual(["./", "./.dockerignore", "./src/", "./src/a.txt", "./src/deep/"]);
  await writeFile(join(folder, ".dockerignore"), "!src\n");
  await expect(archive(".")).rejects.toThrow(".dockerignore: firkin does not know the rule !src");
  await expect(archive("none*")).rejects.toThrow("there is no none*");
  await expect(archive("*/x*")).rejects.toThrow("only the last part");
  await rm(target);
});
