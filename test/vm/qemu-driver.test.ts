/** The qemu engine for real: boot, snapshot, restore, save again, adopt, crash, tear-down. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { GuestAgent } from "../../src/guest/agent.ts";
import { connectGuestAgent } from "../../src/guest/link.ts";
import type { SnapshotManifest, Vm } from "../../src/machine/driver.ts";
import { isRunning, processName, signalProcess } from "../../src/machine/processes.ts";
import { QemuDriver, type QemuDriverOptions } from "../../src/machine/qemu/driver.ts";
import { readSnapshot, verifySnapshot } from "../../src/machine/snapshot-files.ts";
import { type GuestAssets, readGuestAssets } from "../../src/template/assets.ts";
import { cacheDir } from "../support/real-daemon.ts";

const run = promisify(execFile);

const assets: GuestAssets | undefined = await readGuestAssets(cacheDir()).catch(() => undefined);
const title = assets ? "the qemu engine" : "the qemu engine (skipped: there are no guest assets)";

describe.skipIf(!assets)(title, () => {
  let root = "";
  let driver: QemuDriver;
  let options: QemuDriverOptions;
  let snapshotFolder = "";
  let manifest: SnapshotManifest;
  /** Written to a file in the template's memory, and nowhere else. */
  const nonce = `nonce-${process.pid}-${Date.now()}`;
  let templateBootId = "";
  let sequence = 0;

  beforeAll(async () => {
    if (!assets) return;
    const { kernel, initramfs, baseDisk } = assets;
    root = await mkdtemp(join(tmpdir(), "fk-"));
    const log = pino({ level: "silent" });
    options = {
      machinesFolder: join(root, "m"),
      cacheFolder: cacheDir(),
      acceleration: "auto",
      kernel,
      initramfs,
      log,
    };
    driver = await QemuDriver.open(options);
    const shape = { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 };
    const vm = await driver.boot({ sessionId: "template", shape, kernel, initramfs, baseDisk });
    const agent = await connectTo(vm, 60_000);
    templateBootId = agent.bootId;
    await shell(agent, `echo ${nonce} > /dev/shm/nonce; echo template > /root/disk; sync`);
    agent.close();
    await vm.pause();
    snapshotFolder = join(root, "snapshot");
    manifest = await vm.saveSnapshot(snapshotFolder, { bootId: templateBootId });
    await vm.terminate();
  });

  afterAll(async () => {
    await driver?.[Symbol.asyncDispose]();
    if (root) await rm(root, { recursive: true, force: true });
  });

  const connectTo = async (vm: Vm, deadlineMs = 15_000): Promise<GuestAgent> =>
    connectGuestAgent(await vm.openGuestLink(), { deadlineMs });

  async function shell(agent: GuestAgent, script: string): Promise<string> {
    const spec = { command: "/bin/sh", args: ["-c", script], envs: {}, user: "root", stdin: false };
    const command = await agent.exec(spec);
    let text = "";
    for await (const { bytes } of command.output) text += Buffer.from(bytes).toString();
    const end = await command.end;
    if (end.exitCode !== 0) throw new Error(`${script} ended with ${end.exitCode}: ${text}`);
    return text.trim();
  }

  const restore = (folder = snapshotFolder, from = manifest): Promise<Vm> =>
    driver.restore({ sessionId: `s${++sequence}`, snapshotFolder: folder, manifest: from });

  async function expectNothingLeft(vm: Vm): Promise<void> {
    expect(vm.record.processes.filter(isRunning)).toEqual([]);
    expect(await readdir(options.machinesFolder)).not.toContain(vm.record.sessionId);
  }

  test("a snapshot is whole, private, and does not change when machines run from it", async () => {
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
    const vms = await Promise.all([restore(), restore()]);
    const [one, two] = await Promise.all(vms.map((vm) => connectTo(vm)));
    if (!one || !two) throw new Error("two machines");
    expect([one.bootId, two.bootId]).toEqual([templateBootId, templateBootId]);
    const read = "cat /dev/shm/nonce /root/disk";
    expect(await Promise.all([shell(one, read), shell(two, read)])).toEqual([
      `${nonce}\ntemplate`,
      `${nonce}\ntemplate`,
    ]);
    await Promise.all([
      shell(one, "echo one | tee /dev/shm/nonce > /root/disk; sync"),
      shell(two, "echo two | tee /dev/shm/nonce > /root/disk; sync"),
    ]);
    expect(await Promise.all([shell(one, read), shell(two, read)])).toEqual(["one\none", "two\ntwo"]);
    for (const vm of vms) expect(await vm.privateMemoryBytes()).toBeGreaterThan(2 ** 20);
    await Promise.all(vms.map((vm) => vm.terminate()));
    for (const vm of vms) await expectNothingLeft(vm);
  });

  test("a restored machine can be saved, goes on, and its snapshot holds that moment without the first one", async () => {
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
    const second = await first.saveSnapshot(join(root, "second"), { bootId: templateBootId });
    await first.resume();
    const again = await connectTo(first);
    await shell(again, "echo third > /dev/shm/nonce; echo third > /root/disk; sync");
    expect(await shell(again, "cat /dev/shm/nonce /root/disk")).toBe("third\nthird");
    await first.terminate();
    const vm = await restore(join(root, "second"), second);
    expect(await shell(await connectTo(vm), "cat /dev/shm/nonce /root/disk; md5sum < /dev/shm/fill")).toBe(
      `second\nsecond\n${sum}`,
    );
    await vm.terminate();
    expect((await readdir(root)).sort()).toEqual(["m", "second", "snapshot"]);
  });

  test("a large disk layer becomes a shared one, and survives the snapshot it came from", async () => {
    const first = await restore();
    const agent = await connectTo(first);
    const sum = await shell(agent, "head -c 40000000 /dev/urandom > /root/large; sync; md5sum < /root/large");
    agent.close();
    await first.pause();
    const large = await first.saveSnapshot(join(root, "large"), { bootId: templateBootId });
    await first.terminate();
    const vm = await restore(join(root, "large"), large);
    await rm(join(root, "large"), { recursive: true });
    const second = await connectTo(vm);
    await shell(second, "echo 3 > /proc/sys/vm/drop_caches; echo more > /root/more; sync");
    second.close();
    await vm.pause();
    const deeper = await vm.saveSnapshot(join(root, "deeper"), { bootId: templateBootId });
    expect(deeper.lowerLayers.length).toBe(1);
    expect(deeper.files.disk.sizeBytes).toBeLessThan(8 << 20);
    await vm.terminate();
    await verifySnapshot(join(root, "deeper"), deeper, "full");
    const last = await restore(join(root, "deeper"), deeper);
    const third = await connectTo(last);
    expect(await shell(third, "echo 3 > /proc/sys/vm/drop_caches; cat /root/more; md5sum < /root/large")).toBe(
      `more\n${sum}`,
    );
    await last.terminate();
    await rm(join(root, "deeper"), { recursive: true });
  });

  test("a machine started by a daemon that is gone is adopted, and its end is noticed", async () => {
    const child = fileURLToPath(new URL("./start-machine.ts", import.meta.url));
    const input = JSON.stringify({ options: { ...options, log: undefined }, snapshotFolder, sessionId: "orphan" });
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

  test("a guest that powers itself off is a machine that died, with its console quoted", async () => {
    const vm = await restore();
    const agent = await connectTo(vm);
    await shell(agent, "echo the last words > /dev/ttyS0");
    agent.shutdown(1000).catch(() => {});
    expect(await vm.exited).toMatchObject({ reason: "died", detail: expect.stringContaining("the last words") });
    await vm.terminate();
    await expectNothingLeft(vm);
  });

  test("a machine without internet access has a network that is switched off", async () => {
    const vm = await driver.restore({ sessionId: "offline", snapshotFolder, manifest, internetAccess: false });
    const names = () => vm.record.processes.map(processName);
    expect(names()).toEqual([expect.stringMatching(/^qemu-system/), "network-off"]);
    await vm.setInternetAccess(true);
    expect(names()).toEqual([expect.stringMatching(/^qemu-system/), "network-on"]);
    expect(await shell(await connectTo(vm), "cat /dev/shm/nonce")).toBe(nonce);
    await vm.terminate();
  });

  test("what does not fit or is damaged is refused and leaves nothing", async () => {
    const attempt = (change: Partial<SnapshotManifest>) => restore(snapshotFolder, { ...manifest, ...change });
    await expect(attempt({ engineVersion: "1.0.0" })).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(attempt({ machine: { deviceSet: 99 } })).rejects.toMatchObject({ code: "failed_precondition" });
    await mkdir(join(root, "damaged"));
    await writeFile(join(root, "damaged", "devices.bin"), "nonsense");
    for (const name of ["memory.img", "disk.qcow2"])
      await run("cp", [join(snapshotFolder, name), join(root, "damaged")]);
    await expect(restore(join(root, "damaged"), manifest)).rejects.toMatchObject({ code: "machine_failed" });
    await rm(join(root, "damaged"), { recursive: true });
    await expect(restore(join(root, "damaged"), manifest)).rejects.toThrow();
    expect(await readdir(options.machinesFolder)).toEqual([]);
    const elsewhere = { engine: "qemu", sessionId: "x", folder: root, processes: [] } as const;
    await expect(driver.discard(elsewhere)).rejects.toMatchObject({ code: "invalid_argument" });
    const remains = { ...elsewhere, folder: join(options.machinesFolder, "x") };
    await mkdir(remains.folder);
    await driver.discard(remains);
    expect(await readdir(options.machinesFolder)).toEqual([]);
  });

  test("a restore that is given up leaves nothing", async () => {
    for (const afterMs of [0, 10, 30, 60]) {
      const sessionId = `g${afterMs}`;
      const restoring = driver.restore({ sessionId, snapshotFolder, manifest }, AbortSignal.timeout(afterMs));
      await restoring.then((vm) => vm.terminate()).catch(() => {});
      expect(await readdir(options.machinesFolder)).toEqual([]);
    }
  });
});

async function digest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
