import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { spawnDetached } from "../../src/machine/detached-process.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-detached-"));
});
afterEach(() => rm(folder, { recursive: true }));

test("a launcher that fails before anybody waits for it harms nobody, and is told to who asks later", async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  try {
    const { started } = await spawnDetached({
      role: "vm",
      command: "/bin/sh",
      args: ["-c", "echo 'error: it is broken' >&3"],
      logPath: join(folder, "log"),
      descriptors: [],
      reportsOn: "status",
    });
    await sleep(300);
    expect(unhandled).toEqual([]);
    await expect(started).rejects.toThrow("/bin/sh did not start: it is broken");
  } finally {
    process.off("unhandledRejection", note);
  }
});
