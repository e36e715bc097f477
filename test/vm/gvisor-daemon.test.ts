/** A cross-section of what an SDK does, on the gvisor engine: the built daemon, the unmodified SDK, real machines. */
import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runningEngines } from "../support/daemon/engine-processes.ts";
import { missingForGvisor, runsc } from "../support/daemon/gvisor.ts";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, createOn } from "../support/daemon/requests.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines() ?? missingForGvisor();

describe.skipIf(missing)(titleOf("the E2B SDK on the gvisor engine", missing), () => {
  let root = "";
  let stateDir = "";
  let daemon: RealDaemon;

  const start = (...args: string[]) =>
    startDaemon({ stateDir, args: ["--engine", "gvisor", "--runsc", runsc, ...args] });
  const create = () => createOn(daemon, { timeoutMs: 120_000 });
  const connect = (id: string) => Sandbox.connect(id, { timeoutMs: 120_000, ...connectionTo(daemon) });
  const output = async (sandbox: Sandbox, command: string) => (await sandbox.commands.run(command)).stdout.trim();
  const keepers = () => runningEngines(stateDir, "firkin-gvisor");

  beforeAll(async () => {
    root = await newShortFolder();
    stateDir = join(root, "s");
    daemon = await start();
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    if (root) await rm(root, { recursive: true, force: true });
  });

  test("the daemon says which engine it runs, and why", async () => {
    const health = await (await call(daemon, "/health", { headers: { accept: "application/json" } })).json();
    expect(health).toMatchObject({ engine: "gvisor", acceleration: "none", chosenBecause: expect.any(String) });
  });

  test("a sandbox is created, used, paused, resumed and killed, and leaves nothing", async () => {
    const sandbox = await create();
    expect(await output(sandbox, "id -un; sudo id -un; hostname")).toBe(`user\nroot\n${sandbox.sandboxId}`);
    await sandbox.files.write("/home/user/a.txt", "on disk");
    await sandbox.commands.run("echo in memory > /dev/shm/note; touch /dev/shm/ticks");
    await sandbox.commands.run("while sleep 0.1; do echo >> /dev/shm/ticks; done", { background: true });
    expect(await sandbox.pause()).toBe(true);
    await expect.poll(keepers).toEqual([]);
    const resumed = await connect(sandbox.sandboxId);
    expect(await output(resumed, "cat /home/user/a.txt /dev/shm/note")).toBe("on diskin memory");
    const before = Number(await output(resumed, "wc -l < /dev/shm/ticks"));
    await expect.poll(async () => Number(await output(resumed, "wc -l < /dev/shm/ticks"))).toBeGreaterThan(before);
    const other = await create();
    expect(await output(other, "ls /home/user /dev/shm")).not.toContain("note");
    expect(keepers()).toHaveLength(2);
    await Promise.all([resumed.kill(), other.kill()]);
    await expect.poll(keepers).toEqual([]);
    await expect.poll(() => readdirSync(join(stateDir, "machines"))).toEqual([]);
    await expect.poll(() => loopsOf(stateDir)).toEqual([]);
  });

  test("a terminal takes keys, and its size", async () => {
    const sandbox = await create();
    let text = "";
    const terminal = await sandbox.pty.create({
      cols: 101,
      rows: 33,
      onData: (bytes) => {
        text += Buffer.from(bytes).toString();
      },
    });
    await sandbox.pty.sendInput(terminal.pid, Buffer.from("stty size; tty\n"));
    await expect.poll(() => text).toMatch(/33 101[\s\S]*\/dev\/pts\//);
    await sandbox.pty.kill(terminal.pid);
    await sandbox.kill();
  });

  test("a guest reaches its own ports, and neither the host nor its networks", async () => {
    const sandbox = await create();
    const { port } = new URL(daemon.url);
    const reach = (url: string) => output(sandbox, `curl -s -m 5 -o /dev/null -w '%{http_code}' ${url} || true`);
    await sandbox.commands.run("python3 -m http.server 8000 --bind 127.0.0.1", { background: true, cwd: "/tmp" });
    await expect.poll(() => reach("http://127.0.0.1:8000/")).toBe("200");
    for (const address of ["10.0.2.2", "192.168.0.1", "169.254.169.254", ...hostAddresses()]) {
      expect([address, await reach(`http://${address}:${port}/health`)]).toEqual([address, "000"]);
    }
    await sandbox.kill();
  });

  test("a guest that takes all memory and all processes harms itself alone", async () => {
    const [bad, good] = [await create(), await create()];
    await bad.commands
      .run("sudo mount -t tmpfs none /mnt; sudo mknod /tmp/m b 254 0; cat /proc/1/mem", {})
      .catch(() => {});
    const bomb = "python3 -c 'b=[bytearray(1<<20) for _ in range(1<<14)]' & :(){ :|:& };: ; wait";
    await bad.commands.run(bomb, { timeoutMs: 5000 }).catch(() => {});
    expect(await output(good, "echo well")).toBe("well");
    await Promise.all([bad.kill(), good.kill()]);
    await expect.poll(keepers).toEqual([]);
  });

  test("machines outlive a daemon that is killed, and the next one takes them over", async () => {
    const sandbox = await create();
    const paused = await create();
    await sandbox.commands.run("echo kept > /dev/shm/note");
    await paused.commands.run("echo slept > /dev/shm/note");
    await paused.pause();
    await daemon.kill();
    expect(keepers()).toHaveLength(1);
    daemon = await start();
    expect(await output(await connect(sandbox.sandboxId), "cat /dev/shm/note")).toBe("kept");
    expect(await output(await connect(paused.sandboxId), "cat /dev/shm/note")).toBe("slept");
  });
});

/** Addresses of this host, which no guest may reach. */
function hostAddresses(): string[] {
  const text = execFileSync("hostname", ["-I"], { encoding: "utf8" });
  return text.split(/\s+/).filter((address) => /^\d+\.\d+\.\d+\.\d+$/.test(address));
}

/** Loop devices of images in a folder. */
function loopsOf(folder: string): string[] {
  return execFileSync("losetup", ["--list", "--noheadings", "--output", "BACK-FILE"], { encoding: "utf8" })
    .split("\n")
    .filter((line) => line.startsWith(folder));
}
