/** Hostile guests of the gVisor engine: whatever root tries in one, it harms only itself, and nothing of it is left. */
import { readFileSync } from "node:fs";
import type { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingForGvisor } from "../support/daemon/gvisor.ts";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon } from "../support/daemon/real-daemon.ts";
import { call, createOn } from "../support/daemon/requests.ts";
import { leftoversOf } from "../support/faults/leftovers.ts";
import { type Attack, attack } from "../support/guest/attacks.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines() ?? missingForGvisor();

describe.skipIf(missing)(titleOf("hostile guests of gVisor", missing), () => {
  let home: DaemonHome;
  let daemon: RealDaemon;
  let bystander: Sandbox;

  beforeAll(async () => {
    home = await makeDaemonHome({ engine: "gvisor" });
    daemon = await home.start();
    bystander = await createOn(daemon);
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await home?.[Symbol.asyncDispose]();
  });

  const answers = async (sandbox: Sandbox) => (await sandbox.commands.run("echo well")).stdout;

  /** Runs an attack beside the bystander. @returns what it printed, or how it ended */
  async function strike(name: Attack, after: (sandbox: Sandbox, said: string) => Promise<unknown>): Promise<void> {
    const hostile = await createOn(daemon);
    const running = attack(hostile, name);
    expect((await call(daemon, "/health")).status).toBe(204);
    expect(await answers(bystander)).toBe("well\n");
    await after(hostile, await running);
    expect(await answers(bystander)).toBe("well\n");
    await hostile.kill();
    await expect.poll(() => leftoversOf(home, daemon.pid)).toEqual([]);
  }

  /** The sandbox goes on, or ends and its log says by what. */
  async function worksOrSaysWhy(sandbox: Sandbox): Promise<void> {
    const logs = async () => (await call(daemon, `/v2/sandboxes/${sandbox.sandboxId}/logs`)).text();
    const seen = () => answers(sandbox).catch(logs);
    await expect.poll(seen).toMatch(/^well\n$|The sandbox's machine died.*ended by signal 9/s);
  }

  test("each machine's processes are users of the host of their own", async () => {
    const other = await createOn(daemon);
    const users = home
      .engines()
      .map(({ pid }) => /^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
    expect(new Set(users).size).toBe(2);
    await other.kill();
  });

  test("one that reads memory, traces, mounts, makes namespaces and devices finds its own alone", () =>
    strike("pry", async (sandbox, said) => {
      const found = JSON.parse(said) as Record<string, string>;
      // The agent, its shell and this program.
      expect(found.programs).not.toMatch(/runsc|firkin-gvisor|qemu|passt/);
      for (const name of ["/dev/mem", "/dev/vda", "/dev/kvm", "core_pattern", "kcore"]) {
        expect([name, found[name]]).toEqual([name, expect.not.stringContaining("done")]);
      }
      for (const name of ["bpf", "perf", "io_uring", "module", "userfaultfd", "open by handle", "reboot"]) {
        expect([name, found[name]]).toEqual([name, expect.not.stringContaining("done")]);
      }
      await worksOrSaysWhy(sandbox);
    }));

  test("one that takes all memory", () => strike("memory", worksOrSaysWhy));

  test("one that makes processes without end", () => strike("processes", worksOrSaysWhy));

  test("one that opens files without end gets an error for the next one", () =>
    strike("files", async (sandbox, said) => {
      expect(said).toMatch(/EMFILE|ENFILE/);
      await worksOrSaysWhy(sandbox);
    }));

  test("one that watches folders without end", () => strike("watches", worksOrSaysWhy));

  test("one that fills its disk gets an error for the next byte", () =>
    strike("disk", async (sandbox, said) => {
      expect(said).toMatch(/ENOSPC/);
      await worksOrSaysWhy(sandbox);
    }));
});
