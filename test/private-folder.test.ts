/** The owner and the mode of a private folder. */
import { chmod, chown, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makePrivateFolder } from "../src/private-folder.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-private-"));
});
afterEach(() => rm(folder, { recursive: true }));

const modeOf = async (path: string) => (await stat(path)).mode & 0o777;

test("a folder is made, or closed to others", async () => {
  await makePrivateFolder(join(folder, "new", "state"));
  expect(await modeOf(join(folder, "new", "state"))).toBe(0o700);
  await chmod(folder, 0o777);
  await makePrivateFolder(folder);
  expect(await modeOf(folder)).toBe(0o700);
});

test("a folder of another user is refused and left alone", async () => {
  const self = process.getuid?.() ?? 0;
  // Only root can give a folder away; anybody else pretends to be somebody else.
  if (self === 0) await chown(folder, 65_534, 65_534);
  await chmod(folder, 0o777);
  await expect(makePrivateFolder(folder, self === 0 ? 0 : self + 1)).rejects.toMatchObject({
    code: "invalid_state",
    message: expect.stringMatching(/belongs to the user with the id \d+.*--state-dir/),
  });
  expect(await modeOf(folder)).toBe(0o777);
});

test.runIf(process.getuid?.() === 0)("a folder of root is taken, whoever runs the daemon", async () => {
  await makePrivateFolder(folder, 1000);
  expect(await modeOf(folder)).toBe(0o700);
});
