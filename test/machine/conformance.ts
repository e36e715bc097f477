/**
 * The conformance suite holds the tests that every engine must pass: `conformance()` runs them over one engine. An
 * engine's own test file adds tests of what only that engine has. Documents name these tests by parts of their names.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { GuestAgent } from "../../src/guest/agent.ts";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import type { SnapshotManifest, Vm, VmDriver } from "../../src/machine/driver.ts";
import { isRunning, signalProcess } from "../../src/machine/processes.ts";
import { readSnapshot, verifySnapshot } from "../../src/machine/snapshot-files.ts";
import type { MachineShape } from "../../src/types.ts";
import { newShortFolder } from "../support/short-folder.ts";

const run = promisify(execFile);

/** An engine as the suite needs it. */
export interface ConformanceEngine {
  readonly name: "qemu" | "gvisor" | "vz";
  readonly title: string;
  /** Why the engine cannot be run here; undefined when it can. */
  readonly missing: string | undefined;
  readonly shape: MachineShape;
  /** Whether a snapshot holds processes; those of the simulated framework hold the agent's alone. */
  readonly savesProcesses: boolean;
  /** Opens it with its machines in `<root>/m`. */
  open(root: string): Promise<OpenEngine>;
}

export interface OpenEngine {
  readonly driver: VmDriver;
  readonly guest: { readonly kernel: string; readonly initramfs: string; readonly baseDisk: string };
  /** Plain JSON from which another process opens the same engine: see `test/vm/start-machine.ts`. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** The world that the tests of one engine share: the open engine, and a template that it has booted and saved. */
export interface ConformanceWorld {
  readonly root: string;
  readonly machinesFolder: string;
  readonly driver: VmDriver;
  readonly guest: OpenEngine["guest"];
  readonly options: Readonly<Record<string, unknown>>;
  readonly snapshotFolder: string;
  readonly manifest: SnapshotManifest;
  readonly templateBootId: string;
  /** A text in a file in the template's memory, and nowhere else. */
  readonly nonce: string;
  readonly connectTo: (vm: Vm) => Promise<GuestAgent>;
  readonly restore: (folder?: string, from?: SnapshotManifest) => Promise<Vm>;
  readonly expectNothingLeft: (vm: Vm) => Promise<void>;
}

/** Runs a script as root and returns what it printed. */
export async function shell(agent: GuestAgent, script: string): Promise<string> {
  const spec = { command: "/bin/sh", args: ["-c", script], envs: {}, user: "root", stdin: false };
  const command = await agent.exec(spec);
  let text = "";
  for await (const { bytes } of command.output) text += Buffer.from(bytes).toString();
  const end = await command.end;
  if (end.exitCode !== 0) throw new Error(`${script} ended with ${end.exitCode}: ${text}`);
  return text.trim();
}

/** Defines the suite for one engine, and the tests of its own in `more`. */
export function conformance(engine: ConformanceEngine, more: (world: () => ConformanceWorld) => void = () => {}): void {
  const title = engine.missing ? `${engine.title} (skipped: ${engine.missing})` : engine.title;
  describe.skipIf(engine.missing)(title, () => {
    let opened: ConformanceWorld | undefined;
    let root = "";
    const world = (): ConformanceWorld => {
      if (!opened) throw new Error("the engine is not open");
      return opened;
    };
    beforeAll(async () => {
      root = await newShortFolder();
      opened = await openWorld(engine, root);
    });
    afterAll(async () => {
      await opened?.driver[Symbol.asyncDispose]();
      if (root) await rm(root, { recursive: true, force: true });
    });
    testSnapshots(engine, world);
    testLifeAndDeath(world);
    testRefusals(world);
    more(world);
  });
}

async function openWorld({ open, shape }: ConformanceEngine, root: string): Promise<ConformanceWorld> {
  const { driver, guest, options } = await open(root);
  const machinesFolder = join(root, "m");
  const nonce = `nonce-${process.pid}-${Date.now()}`;
  const snapshotFolder = join(root, "snapshot");
  let sequence = 0;
  const connectTo = async (vm: Vm): Promise<GuestAgent> =>
    connectGuestAgent(await vm.openGuestLink(), { deadlineMs: 60_000 });
  const vm = await driver.boot({ sessionId: "template", shape, ...guest });
  const agent = await connectTo(vm);
  await shell(agent, `echo ${nonce} > /dev/shm/nonce; echo template > /root/disk; sync`);
  agent.close();
  await vm.pause();
  const manifest = await vm.saveSnapshot(snapshotFolder, { bootId: agent.bootId });
  await vm.terminate();
  return {
    root,
    machinesFolder,
    driver,
    guest,
    options,
    snapshotFolder,
    manifest,
    templateBootId: agent.bootId,
    nonce,
    connectTo,
    restore: (folder = snapshotFolder, from = manifest) =>
      driver.restore({ sessionId: `s${++sequence}`, snapshotFolder: folder, manifest: from }),
    expectNothingLeft: async (gone) => {
      expect(gone.record.processes.filter(isRunning)).toEqual([]);
      expect(await readdir(machinesFolder)).not.toContain(gone.record.sessionId);
    },
  };
}

function testSnapshots(engine: ConformanceEngine, world: () => ConformanceWorld): void {
  test("a snapshot is whole, private, and does not change when machines run from it", async () => {
    const { snapshotFolder, manifest, restore, connectTo } = world();
    expect(await readSnapshot(snapshotFolder)).toEqual(manifest);
    await verifySnapshot(snapshotFolder, manifest, "full");
    const memory = join(snapshotFolder, manifest.files.memory?.name ?? "");
    const before = await digest(memory);
    const vm = await restore();
    await shell(await connectTo(vm), "head -c 20000000 /dev/urandom > /dev/shm/fill; echo dirty > /root/disk; sync");
    await vm.terminate();
    expect(await digest(memory)).toBe(before);
    await verifySnapshot(snapshotFolder, manifest, "full");
  });

  test("two machines from one snapshot at once: same memory before, nothing in common after", async () => {
    const { driver, machinesFolder, restore, connectTo, templateBootId, nonce, expectNothingLeft } = world();
    if (!driver.info.abilities.fanOut.supported) {
      // There one snapshot is one machine at a time: a second one is refused as not ready yet, and leaves nothing.
      const only = await restore();
      await expect(restore()).rejects.toMatchObject({ code: "not_ready" });
      expect(await readdir(machinesFolder)).toEqual([only.record.sessionId]);
      expect(await shell(await connectTo(only), "cat /dev/shm/nonce")).toBe(nonce);
      await only.terminate();
      return expectNothingLeft(only);
    }
    const vms = await Promise.all([restore(), restore()]);
    const [one, two] = await Promise.all(vms.map((vm) => connectTo(vm)));
    if (!one || !two) throw new Error("two machines");
    expect([one.bootId, two.bootId]).toEqual([templateBootId, templateBootId]);
    const read = "cat /dev/shm/nonce /root/disk";
    const both = () => Promise.all([shell(one, read), shell(two, read)]);
    expect(await both()).toEqual([`${nonce}\ntemplate`, `${nonce}\ntemplate`]);
    await Promise.all([
      shell(one, "echo one | tee /dev/shm/nonce > /root/disk; sync"),
      shell(two, "echo two | tee /dev/shm/nonce > /root/disk; sync"),
    ]);
    expect(await both()).toEqual(["one\none", "two\ntwo"]);
    for (const vm of vms) expect(await vm.privateMemoryBytes()).toBeGreaterThan(2 ** 20);
    await Promise.all(vms.map((vm) => vm.terminate()));
    for (const vm of vms) await expectNothingLeft(vm);
  });

  test("a restored machine can be saved, goes on, and its snapshot holds that moment without the first one", async () => {
    const { root, restore, connectTo, templateBootId } = world();
    const first = await restore();
    const agent = await connectTo(first);
    await shell(
      agent,
      "echo second > /dev/shm/nonce; echo second > /root/disk; sync; head -c 30000000 /dev/urandom > /dev/shm/fill",
    );
    const sum = await shell(agent, "md5sum < /dev/shm/fill");
    agent.close();
    await expect(first.saveSnapshot(join(root, "early"), { bootId: "" })).rejects.toMatchObject({
      code: "invalid_state",
    });
    await first.pause();
    const folder = join(root, "second");
    const second = await first.saveSnapshot(folder, { bootId: templateBootId });
    await first.resume();
    const again = await connectTo(first);
    await shell(again, "echo third > /dev/shm/nonce; echo third > /root/disk; sync");
    expect(await shell(again, "cat /dev/shm/nonce /root/disk")).toBe("third\nthird");
    await first.terminate();
    const vm = await restore(folder, second);
    const read = "cat /dev/shm/nonce /root/disk; md5sum < /dev/shm/fill";
    expect(await shell(await connectTo(vm), read)).toBe(`second\nsecond\n${sum}`);
    await vm.terminate();
    expect((await readdir(root)).filter((name) => /^(early|second|snapshot)/.test(name)).sort()).toEqual([
      "second",
      "snapshot",
    ]);
    await rm(folder, { recursive: true });
  });

  test("a machine saved without its memory boots from its disk", async () => {
    const { root, driver, guest, manifest, restore, connectTo, templateBootId } = world();
    const first = await restore();
    const agent = await connectTo(first);
    await shell(agent, "echo kept > /root/disk; sync");
    agent.close();
    await first.pause();
    const folder = join(root, "cold");
    const saved = await first.saveSnapshot(folder, { bootId: templateBootId, memory: false });
    expect(saved.files.memory).toBeUndefined();
    expect(await readSnapshot(folder)).toEqual(saved);
    await first.terminate();
    await expect(restore(folder, saved)).rejects.toMatchObject({ code: "failed_precondition" });
    const snapshot = { folder, manifest: saved };
    const vm = await driver.boot({ sessionId: "cold", shape: manifest.shape, ...guest, snapshot });
    const booted = await connectTo(vm);
    expect(booted.bootId).not.toBe(templateBootId);
    expect(await shell(booted, "cat /root/disk; test ! -e /dev/shm/nonce")).toBe("kept");
    await vm.terminate();
    await rm(folder, { recursive: true });
  });

  test.skipIf(!engine.savesProcesses)("a process goes on after a save and a restore", async () => {
    const { root, restore, connectTo, templateBootId } = world();
    const first = await restore();
    const agent = await connectTo(first);
    await shell(
      agent,
      "(while sleep 0.1; do echo tick >> /dev/shm/ticks; done) > /dev/null 2>&1 & echo $! > /dev/shm/pid",
    );
    agent.close();
    await first.pause();
    const folder = join(root, "ticking");
    const saved = await first.saveSnapshot(folder, { bootId: templateBootId });
    await first.terminate();
    const vm = await restore(folder, saved);
    const ticking = "n=$(wc -l < /dev/shm/ticks); while [ $(wc -l < /dev/shm/ticks) = $n ]; do sleep 0.1; done";
    await shell(await connectTo(vm), `kill -0 $(cat /dev/shm/pid); ${ticking}`);
    await vm.terminate();
    await rm(folder, { recursive: true });
  });
}

function testLifeAndDeath(world: () => ConformanceWorld): void {
  test("a machine started by a daemon that is gone is adopted, and its end is noticed", async () => {
    const { root, driver, options, snapshotFolder, templateBootId, nonce, connectTo, expectNothingLeft } = world();
    const child = fileURLToPath(new URL("../vm/start-machine.ts", import.meta.url));
    const input = JSON.stringify({ engine: driver.info.engine, options, snapshotFolder, sessionId: "orphan" });
    const { stdout } = await run(process.execPath, ["--import", "tsx", child, input]);
    const record = JSON.parse(stdout) as Vm["record"];
    const vm = await driver.adopt(record);
    if (!vm) throw new Error("not adopted");
    expect(await shell(await connectTo(vm), "cat /dev/shm/nonce")).toBe(nonce);
    await vm.pause();
    const saved = await vm.saveSnapshot(join(root, "adopted"), { bootId: templateBootId });
    await verifySnapshot(join(root, "adopted"), saved, "full");
    await vm.resume();
    const engine = record.processes.find((process) => process.role === "vm");
    if (!engine) throw new Error("no engine");
    expect(signalProcess(engine, "SIGKILL")).toBe(true);
    expect(await vm.exited).toMatchObject({ reason: "died" });
    expect(await driver.adopt(record)).toBeUndefined();
    await driver.discard(record);
    await driver.discard(record);
    await expectNothingLeft(vm);
    await rm(join(root, "adopted"), { recursive: true });
  });

  test("terminating an adopted machine and one that died leaves nothing", async () => {
    const { driver, restore, expectNothingLeft } = world();
    const vm = await restore();
    await vm.release();
    const adopted = await driver.adopt(vm.record);
    const ending = adopted?.terminate();
    expect(adopted?.terminate()).toBe(ending);
    await ending;
    expect(await adopted?.exited).toEqual({ reason: "terminated" });
    await expectNothingLeft(vm);
    const killed = await restore();
    for (const process of killed.record.processes) if (process.role === "vm") signalProcess(process, "SIGKILL");
    expect(await killed.exited).toMatchObject({ reason: "died", detail: expect.stringContaining("SIGKILL") });
    await killed.terminate();
    await expectNothingLeft(killed);
  });

  test("a guest that powers itself off is a machine that died", async () => {
    const { restore, connectTo, expectNothingLeft } = world();
    const vm = await restore();
    const agent = await connectTo(vm);
    agent.shutdown(1000).catch(() => {});
    expect(await vm.exited).toMatchObject({ reason: "died" });
    await vm.terminate();
    await expectNothingLeft(vm);
  });

  test("a newer guest link ends the one before it", async () => {
    const { restore, connectTo, nonce } = world();
    const vm = await restore();
    const first = await connectTo(vm);
    const second = await connectTo(vm);
    await expect(shell(first, "true")).rejects.toThrow();
    expect(await shell(second, "cat /dev/shm/nonce")).toBe(nonce);
    await vm.terminate();
  });
}

function testRefusals(world: () => ConformanceWorld): void {
  test("what does not fit or is damaged is refused and leaves nothing", async () => {
    const { root, driver, machinesFolder, snapshotFolder, manifest, restore } = world();
    const attempt = (change: Partial<SnapshotManifest>) => restore(snapshotFolder, { ...manifest, ...change });
    await expect(attempt({ engineVersion: "1.0.0" })).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(attempt({ machine: { deviceSet: 99 } })).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(restore(join(root, "nowhere"), manifest)).rejects.toThrow();
    expect(await readdir(machinesFolder)).toEqual([]);
    const elsewhere = { engine: driver.info.engine, sessionId: "x", folder: root, processes: [] } as const;
    await expect(driver.discard(elsewhere)).rejects.toMatchObject({ code: "invalid_argument" });
  });

  test("a restore that is given up leaves nothing", async () => {
    const { driver, machinesFolder, snapshotFolder, manifest } = world();
    for (const afterMs of [0, 10, 30, 60]) {
      const sessionId = `g${afterMs}`;
      const restoring = driver.restore({ sessionId, snapshotFolder, manifest }, AbortSignal.timeout(afterMs));
      await restoring.then((vm) => vm.terminate()).catch(() => {});
      expect(await readdir(machinesFolder)).toEqual([]);
    }
  });
}

/** The plain digest of a file. */
async function digest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
