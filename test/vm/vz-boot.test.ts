/** The boot of guest jobs on a Mac, on the simulated framework, where the guest is the agent and ends when told to. */
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { vzBoot } from "../../scripts/setup/guest-boot.mjs";
import { storageRoots } from "../../scripts/setup/roots.mjs";
import { findProcessesIn } from "../../src/machine/processes.ts";
import { HelperClient } from "../../src/machine/vz/helper-client.ts";
import { nothingSchema } from "../../src/machine/vz/helper-messages.ts";
import {
  missingForSimulation,
  type SimulatedFramework,
  simulateFramework,
} from "../support/fakes/simulated-framework.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = await missingForSimulation();
const title = "a machine for a guest job, on the simulated framework";

describe.skipIf(missing)(titleOf(title, missing), () => {
  let root = "";
  let mac: SimulatedFramework;
  beforeAll(async () => {
    root = await newShortFolder();
    mac = await simulateFramework(join(root, "mac"));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  const context = { signal: new AbortController().signal, onLine: () => {} };
  const boot = (
    name: string,
    kernel: string,
    diskSource: string,
    options: { line?: string; deadlineMs?: number } = {},
  ) => {
    const folder = join(root, name);
    mkdirSync(folder);
    const disk = join(folder, "image");
    copyFileSync(diskSource, disk);
    const commandLine = options.line ?? "firkin.vsock=1024";
    const run = vzBoot(storageRoots(), mac.helper, options.deadlineMs);
    const { initramfs } = mac;
    return {
      folder,
      disk,
      ended: run({ folder, disk, kernel, initramfs, commandLine }, context),
    };
  };

  test("the machine is waited for until it has stopped, and its disk is handed over", async () => {
    const { folder, disk, ended } = boot("good", mac.kernel, mac.baseDisk);
    const client = await HelperClient.connect(join(folder, "control.sock"), { deadlineMs: 30_000 });
    let stopped = false;
    const noted = ended.finally(() => {
      stopped = true;
    });
    await new Promise<void>((resolve) => client.onState((state) => state === "running" && resolve()));
    expect(existsSync(join(folder, "disk.img"))).toBe(true);
    expect(stopped).toBe(false);
    // The helper is ended as soon as the machine has stopped, whether it has answered or not.
    await Promise.allSettled([client.request({ op: "stop" }, nothingSchema, 30_000)]);
    await noted;
    expect(existsSync(join(folder, "disk.img"))).toBe(false);
    expect(existsSync(disk)).toBe(true);
  });

  test("a machine that the framework refuses ends the job with the framework's words", async () => {
    const noKernel = join(root, "no-kernel");
    writeFileSync(noKernel, Buffer.alloc(4096));
    await expect(boot("bad", noKernel, mac.baseDisk).ended).rejects.toThrow(/firkin-vz: .*start/);
  });

  test("a job that is not over in time is ended, and the error has the end of the guest's console", async () => {
    const { folder, ended } = boot("late", mac.kernel, mac.baseDisk, { deadlineMs: 3000 });
    await expect(ended).rejects.toThrow(/not over after 3 s[\s\S]*console ends:[\s\S]*Linux version/);
    expect(findProcessesIn(folder, "vm", "firkin-vz")).toEqual([]);
  });

  test("a guest that resets itself is noticed, although the framework takes it for no end", async () => {
    const line = "firkin.vsock=1024 rdinit=/nonexistent";
    const { ended } = boot("resets", mac.kernel, mac.baseDisk, { line });
    await expect(ended).rejects.toThrow(/reset itself and begun anew[\s\S]*Kernel panic/);
  });
});
