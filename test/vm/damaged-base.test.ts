/** The template `base` of a real daemon is damaged on the disk: it is made again by itself. */
import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon } from "../support/daemon/real-daemon.ts";
import { createOn, logLines, post } from "../support/daemon/requests.ts";

/** A boot, a warm-up and a save under emulation. */
const remakeMs = 300_000;

describe.skipIf(missingForRealMachines())("a damaged base template", () => {
  let home: DaemonHome;
  let daemon: RealDaemon;
  beforeAll(async () => {
    home = await makeDaemonHome();
    daemon = await home.start();
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await home?.[Symbol.asyncDispose]();
  });

  test("is refused with 503 and made again at once, and then creates work", { timeout: 2 * remakeMs }, async () => {
    const before = await createOn(daemon);
    const snapshots = join(home.stateDir, "snapshots");
    const [name = ""] = await readdir(snapshots);
    const { files } = JSON.parse(await readFile(join(snapshots, name, "manifest.json"), "utf8"));
    await overwrite(join(snapshots, name, files.memory.name));
    const create = () => post(daemon, "/sandboxes", { templateID: "base", timeout: 900 });
    for (let n = 0; n < 2; n++) {
      const refused = await create();
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "10"]);
      expect(await refused.text()).toContain("is being made again");
    }
    await expect.poll(async () => (await create()).status, { timeout: remakeMs, interval: 2_000 }).toBe(201);
    const after = await createOn(daemon);
    expect((await after.commands.run("echo works")).stdout).toBe("works\n");
    const loops = logLines(daemon).filter(({ msg }) => msg === "background loop failed");
    expect(loops).toEqual([]);
    await before.kill();
  });
});

/** Damages a file in its middle, in place. */
async function overwrite(path: string): Promise<void> {
  const file = await open(path, "r+");
  try {
    const { size } = await file.stat();
    await file.write(Buffer.alloc(8192, 0xff), 0, 8192, Math.floor(size / 2 / 4096) * 4096);
  } finally {
    await file.close();
  }
}
