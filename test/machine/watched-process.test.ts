/** The base of every engine's VM, over a process that is no engine: its guest link, its end, and letting go of it. */
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { startDetached } from "../../src/machine/detached-process.ts";
import { endProcess, isRunning } from "../../src/machine/processes.ts";
import { removeRemains } from "../../src/machine/remains.ts";
import { openSocket } from "../../src/machine/socket.ts";
import { WatchedProcess } from "../../src/machine/watched-process.ts";

class Sleeper extends WatchedProcess {
  get pid() {
    return this.engine;
  }

  protected override dialGuest(): Promise<Socket> {
    return openSocket(join(this.record.folder, "link.sock"));
  }
}

let root = "";
let server: Server;
let sleepers: Sleeper[] = [];
let closedControls = 0;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "fk-"));
  server = createServer((socket) => void socket.resume().on("error", () => {}));
  sleepers = [];
  closedControls = 0;
});
afterEach(async () => {
  for (const { pid } of sleepers) await endProcess(pid, 0);
  server.close();
  await rm(root, { recursive: true });
});

/** @param isChild false: as a daemon sees a machine that an earlier one started */
async function startSleeper({ isChild = true } = {}): Promise<Sleeper> {
  const folder = join(root, "m");
  await mkdir(folder);
  await new Promise<void>((resolve) => void server.listen(join(folder, "link.sock"), resolve));
  const args = ["-e", "console.log('trouble'); setTimeout(() => {}, 60_000)"];
  const logPath = join(folder, "log");
  const command = process.execPath;
  const { identity, exited } = await startDetached({ role: "vm", command, args, logPath, descriptors: [] });
  const record = { engine: "qemu", sessionId: "m", folder, processes: [identity] } as const;
  const sleeper = new Sleeper({
    record,
    childExited: isChild ? exited : undefined,
    control: { closed: new Promise(() => {}), close: () => void closedControls++ },
    log: { name: "log", title: "its log" },
    askToEnd: () => Promise.reject(new Error("deaf")),
    graces: { askedMs: 20, terminatedMs: 1000 },
    removeRemains: () => removeRemains(record, 0),
  });
  sleepers.push(sleeper);
  return sleeper;
}

test.each([true, false])("a process that is killed died, with the end of its log (child: %s)", async (isChild) => {
  const sleeper = await startSleeper({ isChild });
  const link = await sleeper.openGuestLink();
  await endProcess(sleeper.pid, 0);
  const how = isChild ? "ended by SIGKILL" : "the process is gone";
  const detail = expect.stringMatching(new RegExp(`^${how}; its log ends:`));
  expect(await sleeper.exited).toEqual({ reason: "died", detail });
  expect(link.destroyed).toBe(true);
});

test.each([true, false])("a process that is deaf is terminated and leaves nothing (child: %s)", async (isChild) => {
  const sleeper = await startSleeper({ isChild });
  const link = await sleeper.openGuestLink();
  const ending = sleeper.terminate();
  expect(sleeper.terminate()).toBe(ending);
  await ending;
  expect(await sleeper.exited).toEqual({ reason: "terminated" });
  expect([link.destroyed, isRunning(sleeper.pid), closedControls, await readdir(root)]).toEqual([true, false, 1, []]);
});

test("a newer guest link ends the one before, and one that is given up is not opened", async () => {
  const sleeper = await startSleeper();
  const first = await sleeper.openGuestLink();
  const second = await sleeper.openGuestLink();
  expect([first.destroyed, second.destroyed]).toEqual([true, false]);
  const reason = new Error("given up");
  await expect(sleeper.openGuestLink(AbortSignal.abort(reason))).rejects.toBe(reason);
  const ending = sleeper.terminate();
  await expect(sleeper.openGuestLink()).rejects.toThrow();
  await ending;
});

test("a process that is released goes on, without a link", async () => {
  const sleeper = await startSleeper({ isChild: false });
  const link = await sleeper.openGuestLink();
  await sleeper.release();
  expect([link.destroyed, isRunning(sleeper.pid), closedControls]).toEqual([true, true, 1]);
});
