/** The daemon's log file: private, in pieces, and bounded. */
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { openLog } from "../src/log.ts";

test("a log file is continued by the next when it is full, and the oldest go", async () => {
  const folder = await mkdtemp(join(tmpdir(), "firkin-log-"));
  const file = join(folder, "deep", "firkin.log");
  const numberOf = (name: string) => Number(/\d+/.exec(name)?.[0]);
  const newest = async () => Math.max(...(await readdir(join(folder, "deep"))).map(numberOf));
  const written: number[] = [];
  {
    await using opened = await openLog({ level: "info", file, maxFileBytes: 10_000 });
    // The file is changed when there is nothing left to write.
    while ((await newest()) < 10) {
      for (let n = 0; n < 50; n += 1) {
        opened.log.info({ number: written.length }, "x".repeat(100));
        written.push(written.length);
      }
    }
  }
  // Old ones are removed in the background.
  await expect.poll(async () => (await readdir(join(folder, "deep"))).length).toBeLessThanOrEqual(5);
  const names = await readdir(join(folder, "deep"));
  expect(names.length).toBeGreaterThan(1);
  names.sort((one, other) => numberOf(one) - numberOf(other));
  const lines: string[] = [];
  for (const name of names) {
    const path = join(folder, "deep", name);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    // The newest may have been begun just before the close, and is empty then.
    lines.push(...(await readFile(path, "utf8")).split("\n").filter(Boolean));
  }
  // What is left is the end, without a gap and with nothing lost at the close.
  const numbers = lines.map((line) => (JSON.parse(line) as { number: number }).number);
  expect(numbers).toEqual(written.slice(-numbers.length));
  expect(numbers.length).toBeLessThan(written.length);
  await rm(folder, { recursive: true });
});

test("a folder that cannot be made is an error that names it", async () => {
  const file = fileURLToPath(import.meta.url);
  await expect(openLog({ level: "info", file: join(file, "firkin.log") })).rejects.toThrow(/ENOTDIR|EEXIST/);
});
