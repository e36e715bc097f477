/** `--keep-awake`, with a stand-in for macOS's program. */
import { chmod, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { keepAwake } from "../../../src/machine/vz/keep-awake.ts";
import { newShortFolder } from "../../support/short-folder.ts";

let root = "";
beforeEach(async () => {
  root = await newShortFolder();
});
afterEach(() => rm(root, { recursive: true, force: true }));

test("the program is told which process it waits for, and ends when it is not wanted any more", async () => {
  const program = join(root, "caffeinate");
  await writeFile(
    program,
    `#!/bin/sh\ntrap 'echo ended >> ${root}/log; exit' TERM\necho "$*" > ${root}/log\nwhile :; do sleep 0.05; done\n`,
  );
  await chmod(program, 0o755);
  const end = await keepAwake(program);
  const log = () => readFile(join(root, "log"), "utf8").catch(() => "");
  await expect.poll(log).toBe(`-i -w ${process.pid}\n`);
  end();
  await expect.poll(log).toContain("ended");
});

test("a system without the program is told so", async () => {
  await expect(keepAwake(join(root, "none"))).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringContaining("caffeinate"),
  });
});
