/** Orphans of Apple's framework, with stand-ins for `ps` and `lsof` of a Mac: exactly those are ended that are ours. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { pino } from "pino";
import { afterEach, expect, test } from "vitest";
import { type AskSystem, endOrphans, findMachines } from "../../../src/machine/vz/orphans.ts";

const log = pino({ level: "silent" });
const program =
  "/System/Library/Frameworks/Virtualization.framework/XPCServices/com.apple.Virtualization.VirtualMachine";
const folder = "/tmp/fk-1/machines";

const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
});

/** A process that stands for a machine of the framework. */
async function machine(): Promise<ChildProcess & { readonly pid: number }> {
  const child = spawn("sleep", ["600"], { stdio: "ignore" });
  await once(child, "spawn");
  started.push(child);
  return child as ChildProcess & { readonly pid: number };
}

/** A Mac on which processes hold these files; `pids` are of machines, the rest of other programs. */
function mac(held: ReadonlyMap<number, readonly string[]>, pids = [...held.keys()]): AskSystem {
  return async (command, args) => {
    if (command === "ps") {
      return [...held.keys()].map((pid) => `${pid} ${pids.includes(pid) ? program : "/usr/bin/tail"}`).join("\n");
    }
    const files = held.get(Number(args[2])) ?? [];
    return [`p${args[2]}`, ...files.map((path) => `fcwd\nn${path}`)].join("\n");
  };
}

const runs = ({ exitCode, signalCode }: ChildProcess) => exitCode === null && signalCode === null;

test("machines are found by the files that they hold in our folder, under either name of /tmp", async () => {
  const [ours, linked, foreign] = [await machine(), await machine(), await machine()];
  const ask = mac(
    new Map([
      [ours.pid, [`${folder}/one/disk.img`, "/usr/lib/dyld"]],
      [linked.pid, [`/private${folder}/two/disk.img`]],
      [foreign.pid, ["/Users/someone/lima/disk.img", `${folder}-other/three/disk.img`]],
    ]),
  );
  const found = await findMachines(folder, ask);
  expect(found.map(({ process, names }) => [process.pid, names])).toEqual([
    [ours.pid, ["one"]],
    [linked.pid, ["two"]],
  ]);
});

test("a machine without a helper is ended; one with a helper, one of another program and another file are not", async () => {
  const [orphan, owned, foreign, reader] = [await machine(), await machine(), await machine(), await machine()];
  const held = new Map([
    [orphan.pid, [`${folder}/orphan/disk.img`]],
    [owned.pid, [`${folder}/owned/disk.img`]],
    [foreign.pid, ["/Users/someone/lima/disk.img"]],
    [reader.pid, [`${folder}/orphan/disk.img`]],
  ]);
  const ask = mac(held, [orphan.pid, owned.pid, foreign.pid]);
  await endOrphans(folder, { log, ask, owned: () => new Set(["owned"]) });
  await expect.poll(() => runs(orphan)).toBe(false);
  expect([owned, foreign, reader].map(runs)).toEqual([true, true, true]);
});

test("only the machine that is named is ended, and one that ends by itself in time is not touched", async () => {
  const [one, two] = [await machine(), await machine()];
  const held = new Map([
    [one.pid, [`${folder}/one/disk.img`]],
    [two.pid, [`${folder}/two/disk.img`]],
  ]);
  await endOrphans(folder, { log, name: "one", ask: mac(held), owned: () => new Set() });
  await expect.poll(() => runs(one)).toBe(false);
  let looks = 0;
  const goes: AskSystem = async (...question) => {
    looks++;
    return looks > 3 ? "" : mac(new Map([[two.pid, [`${folder}/two/disk.img`]]]))(...question);
  };
  await endOrphans(folder, { log, name: "two", ask: goes, owned: () => new Set() });
  expect(runs(two)).toBe(true);
});
