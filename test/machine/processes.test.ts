import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { basename } from "node:path";
import { expect, test, vi } from "vitest";
import {
  endProcess,
  findProcessesIn,
  identifyProcess,
  isRunning,
  parseProcessStat,
  processName,
  signalProcess,
  waitUntilGone,
} from "../../src/machine/processes.ts";

/** Pids of processes that hide their executable, as an undumpable process does from every user but root. */
const hiding = new Set<number>();
// Unit tests share modules; those that are loaded already would keep the real file system.
vi.hoisted(() => vi.resetModules());
vi.mock("node:fs", async (importOriginal) => {
  const real = await importOriginal<typeof import("node:fs")>();
  const readOrHide = (path: string) => {
    if (hiding.has(Number(/^\/proc\/(\d+)\/exe$/.exec(path)?.[1])))
      throw Object.assign(new Error(path), { code: "EACCES" });
    return real.readlinkSync(path);
  };
  return { ...real, readlinkSync: readOrHide };
});

async function sleeper(...command: string[]): Promise<ChildProcess & { readonly pid: number }> {
  const [program = "sleep", ...args] = command.length > 0 ? command : ["sleep", "60"];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "ignore"] });
  await once(child, "spawn");
  if (child.pid === undefined) throw new Error("no pid");
  return child as ChildProcess & { readonly pid: number };
}

test("a command with spaces and parentheses does not shift the fields", () => {
  const rest = ["S", ...Array.from({ length: 18 }, (_, index) => String(index)), "4242", "0"].join(" ");
  expect(parseProcessStat(`12 (a) b (c)) ${rest}`)).toEqual({
    command: "a) b (c)",
    state: "S",
    threads: 16,
    startTime: "4242",
    cpuTimeMs: (10 + 11) * 10,
  });
});

test.each(["", "12", "12 (x", "12 (x) S 1 2", ")("])("%j is no process", (text) => {
  expect(parseProcessStat(text)).toBeUndefined();
});

test("a process is identified, found running, ended and found gone", async () => {
  const child = await sleeper();
  const identity = identifyProcess("vm", child.pid);
  if (!identity) throw new Error("not identified");
  expect(identity).toMatchObject({
    role: "vm",
    pid: child.pid,
    executable: expect.stringMatching(/\/(sleep|coreutils)$/),
  });
  expect(isRunning(identity)).toBe(true);
  await endProcess(identity, 1000);
  expect(isRunning(identity)).toBe(false);
  expect(identifyProcess("vm", child.pid)).toBeUndefined();
  await endProcess(identity, 1000);
});

test.each([
  ["another start time", { startTime: "1" }],
  ["another executable", { executable: "/usr/bin/qemu-system-x86_64" }],
  ["another hidden executable", { executable: "command:passt" }],
])("a process with %s is never signalled", async (_, difference) => {
  const child = await sleeper();
  const identity = identifyProcess("network", child.pid);
  if (!identity) throw new Error("not identified");
  const other = { ...identity, ...difference };
  expect(isRunning(other)).toBe(false);
  expect(signalProcess(other, "SIGKILL")).toBe(false);
  await endProcess(other, 0);
  expect(isRunning(identity)).toBe(true);
  await endProcess(identity, 0);
});

test("a process that hides its executable is signalled only when it was started as the recorded one", async () => {
  const child = await sleeper();
  const identity = identifyProcess("vm", child.pid);
  if (!identity) throw new Error("not identified");
  hiding.add(child.pid);
  expect(isRunning(identity)).toBe(true);
  const refusal = `process ${child.pid} gets no SIGKILL: it hides its executable, which may not be ${identity.executable}`;
  await expect(endProcess(identity, 0)).rejects.toMatchObject({ code: "machine_failed", message: refusal });
  expect(child.exitCode ?? child.signalCode).toBe(null);
  // A process that always hid its executable is known by its name.
  await endProcess({ ...identity, executable: `command:${processName(identity)}` }, 0);
  expect(isRunning(identity)).toBe(false);

  const plain = await sleeper(process.execPath, "-e", "setTimeout(() => {}, 60_000)");
  const known = identifyProcess("vm", plain.pid);
  if (!known) throw new Error("not identified");
  hiding.add(plain.pid);
  expect(identifyProcess("vm", plain.pid)).toEqual(known);
  await endProcess(known, 0);
  expect(isRunning(known)).toBe(false);
});

test("a process that ignores SIGTERM is killed after its grace", async () => {
  const child = await sleeper("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done");
  if (child.stdout) await once(child.stdout, "data");
  const identity = identifyProcess("vm", child.pid);
  if (!identity) throw new Error("not identified");
  await endProcess(identity, 50);
  expect(isRunning(identity)).toBe(false);
});

test("waiting for a process that stays ends at the deadline", async () => {
  const child = await sleeper();
  const identity = identifyProcess("vm", child.pid);
  if (!identity) throw new Error("not identified");
  expect(await waitUntilGone(identity, 10)).toBe(false);
  await endProcess(identity, 0);
  expect(await waitUntilGone(identity, 10)).toBe(true);
});

test("a process is found by the folder that its arguments name, and no other program is", async () => {
  const child = await sleeper("tail", "-f", "/dev/null", "--pid=1", "name=/nowhere/a,,b/c,x=y");
  const identity = identifyProcess("vm", child.pid);
  if (!identity) throw new Error("not identified");
  const program = basename(identity.executable);
  try {
    expect(findProcessesIn("/nowhere/a,b", "vm", program)).toEqual([identity]);
    expect(findProcessesIn("/nowhere/a", "vm", program)).toEqual([]);
    expect(findProcessesIn("/nowhere/a,b", "vm", "qemu-system-x86_64")).toEqual([]);
  } finally {
    child.kill("SIGKILL");
  }
});
