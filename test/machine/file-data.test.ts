/** The digest of a sparse file without its holes is that of the whole file, wherever its data is. */
import { mkdtemp, open, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { openDataFinder } from "../../src/machine/file-data.ts";
import { Images } from "../../src/machine/images.ts";
import { describeFile } from "../../src/machine/snapshot-files.ts";

const folder = await mkdtemp(join(tmpdir(), "firkin-data-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const mib = 2 ** 20;
/** Where a file of so many bytes has data. */
const files: Record<string, readonly [sizeBytes: number, ...places: number[]]> = {
  "nothing but holes": [64 * mib],
  "an end that is no whole block": [64 * mib + 7, 64 * mib],
  "data at both ends and across blocks": [64 * mib, 0, 5 * mib - 3, 6 * mib - 1, 40 * mib, 64 * mib - 5],
  "no bytes": [0],
};

test.for(Object.entries(files))("%s", async ([name, [sizeBytes, ...places]]) => {
  const path = join(folder, name);
  await writeFile(path, "");
  await truncate(path, sizeBytes);
  const file = await open(path, "r+");
  for (const place of places) await file.write("data", place);
  await file.close();
  await truncate(path, sizeBytes);
  const findData = await openDataFinder(folder);
  const blocks = (await findData(path)).reduce((sum, [, count]) => sum + count, 0);
  expect(blocks).toBeLessThanOrEqual(places.length * 2);
  const images = await Images.open(folder, join(folder, "index"), findData);
  expect(await images.identify(path)).toEqual(await describeFile(folder, name));
});
