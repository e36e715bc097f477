/** Tests of the store of engines, with a program of this host. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { listEngines, listStore, removeStored, storeEngine } from "../../../src/machine/jail/engine-store.ts";

test("an engine is kept with its libraries, found by its version, and removed as a whole", async () => {
  const root = await mkdtemp(join(tmpdir(), "firkin-engines-"));
  try {
    const [cache, own] = [join(root, "cache"), join(root, "own")];
    const parts = { name: "program", version: "1.2", programs: ["/usr/bin/true"], files: [] };
    const stored = await storeEngine([cache, own], parts);
    expect(await storeEngine([cache, own], parts)).toEqual(stored);
    expect(existsSync(join(stored.folder, "usr/bin/true"))).toBe(true);
    expect(await listEngines(own, "program")).toEqual([stored]);
    // What a daemon that died left, and what is not the store's.
    await mkdir(join(own, "program_1.3_0123456789ab.77.partial"));
    await mkdir(join(own, "notes"));
    await mkdir(join(own, "other_1.3_0123456789ab"));
    const listed = await listStore(own, ["program"]);
    expect(listed.map(({ folder }) => basename(folder)).sort()).toEqual([
      basename(stored.folder),
      "program_1.3_0123456789ab.77.partial",
    ]);
    for (const { folder } of listed) await removeStored(folder);
    expect((await readdir(own)).sort()).toEqual(["notes", "other_1.3_0123456789ab"]);
    expect(await listEngines(cache, "program")).toHaveLength(1);
    expect(await listStore(join(root, "nowhere"), ["program"])).toEqual([]);
  } finally {
    await rm(root, { recursive: true });
  }
});
