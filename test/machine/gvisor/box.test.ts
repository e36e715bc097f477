/** The box of a gVisor machine, looked at from inside by a visitor in the place of its keeper. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BoxUsers, firstFileOwner } from "../../../src/machine/gvisor/users.ts";
import { diskOf } from "../../support/images/disk.ts";
import { makeTar, type TarFile } from "../../support/images/tar.ts";
import { titleOf } from "../../support/skipped-title.ts";

const sourceOf = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
const baseFiles: readonly TarFile[] = [
  { path: "file", content: "base" },
  { path: "theirs", content: "x", uid: 1000, gid: 1000, mode: 0o4755 },
  { path: "nobodys", content: "x", mode: 0o666, pax: { uid: "4000000000" } },
  { path: "capable", content: "x", mode: 0o755, pax: { "SCHILY.xattr.security.capability": capability } },
  { path: "device", type: "4", device: [7, 0], mode: 0o666 },
];
/** The loop devices that show a file, which may be gone. */
const loopsOf = (path: string) =>
  readdirSync("/sys/block")
    .map((name) => `/sys/block/${name}/loop/backing_file`)
    .filter((place) => existsSync(place) && readFileSync(place, "utf8").startsWith(path));

const missing = process.getuid?.() === 0 ? undefined : "only root can make a box";

describe.skipIf(missing)(titleOf("the box of a gVisor machine", missing), () => {
  let root = "";
  let users: BoxUsers;
  const at = (...names: string[]) => join(root, ...names);
  const launcher = () => at("box");

  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), "firkin-box-"));
    const flags = ["-O1", "-static", "-w", "-o"];
    execFileSync("cc", [...flags, launcher(), sourceOf("../../../src/machine/gvisor/box.c")]);
    execFileSync("cc", [...flags, at("visitor"), sourceOf("visitor.c")]);
    for (const folder of ["mount", "base", "restored", "machines"]) mkdirSync(at(folder));
    writeFileSync(at("base", "file"), "base");
    writeFileSync(at("restored", "checkpoint.img"), "saved", { mode: 0o600 });
    for (const path of [at("base"), at("base", "file"), at("restored", "checkpoint.img")]) give(path, firstFileOwner);
    users = await openUsers();
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  const openUsers = (machinesFolder = at("machines")) =>
    BoxUsers.open({ launcher: launcher(), mountPoint: at("mount"), machinesFolder });

  function give(path: string, owner: number): void {
    chownSync(path, owner, owner);
  }

  /** Makes a machine's folder as the engine does. */
  function makeMachine(name: string, first: number): void {
    mkdirSync(at("machines", name, "image"), { recursive: true });
    give(at("machines", name, "image"), first);
    const disk = at("machines", name, "disk.ext4");
    execFileSync("truncate", ["-s", "16M", disk]);
    execFileSync("mke2fs", ["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", disk]);
  }

  function boxOf(name: string, first: number, base: string): string[] {
    const folder = at("machines", name);
    return [
      `folder=${folder}`,
      `mount=${at("mount")}`,
      `base=${base}`,
      `disk=${join(folder, "disk.ext4")}`,
      `ro=${at("visitor")}:/visitor`,
      `ro=${at("restored")}:/restored`,
      `rw=${join(folder, "image")}:/image`,
      `users=${first}`,
      `owners=${firstFileOwner}`,
      "oom=500",
      "--",
      "/visitor",
    ];
  }

  function visit(name: string, first: number, base = at("base")): Record<string, string> {
    const output = execFileSync(launcher(), boxOf(name, first, base), { encoding: "utf8" });
    return Object.fromEntries(output.split("\n").map((line) => line.split(/: +/) as [string, string]));
  }

  const first = (name: string) => {
    const own = users.take(name);
    makeMachine(name, own);
    return own;
  };

  test("this host gives each machine users of its own", () => {
    expect(users.sharedBecause).toBeUndefined();
  });

  test("what is in a box has its own machine's files, and what changes there is on its own disk", () => {
    const own = first("one");
    expect(visit("one", own)).toMatchObject({
      core: "0",
      oom: "500",
      "host name": "box",
      users: `0 ${own}      65536`,
      "write to its disk": "done",
      "change a file of the base": "done",
      "owner of /disk/file": "0",
      "read the checkpoint": "done",
      "write the checkpoint": "EROFS",
      "write the folder of its own checkpoints": "done",
      "read a layer": "ENOENT",
      "read a file of the host": "ENOENT",
    });
    expect(readFileSync(at("base", "file"), "utf8")).toBe("base");
    expect(lstatSync(at("machines", "one", "image", "checkpoint.img")).uid).toBe(own);
  });

  test("system calls that no box needs are refused", () => {
    const answers = visit("two", first("two"));
    for (const call of ["keys", "bpf", "perf", "userfaultfd", "io_uring", "load a module", "set the clock"]) {
      expect([call, answers[call]]).toEqual([call, "EPERM"]);
    }
  });

  test("a disk shows its files as another machine's when that one has it", () => {
    const [one, other] = [first("three"), first("four")];
    expect(one).not.toBe(other);
    visit("three", one);
    execFileSync("cp", [at("machines", "three", "disk.ext4"), at("machines", "four", "disk.ext4")]);
    expect(visit("four", other)).toMatchObject({ "change a file of the base": "done", "owner of /disk/file": "0" });
    // debugfs reads the image without a mount.
    const upper = execFileSync("debugfs", ["-R", "stat upper/file", at("machines", "four", "disk.ext4")], {
      encoding: "utf8",
      stdio: "pipe",
    });
    expect(upper).toMatch(new RegExp(`User: +${firstFileOwner} `));
  });

  test("a base disk is mounted as it is: its files are the box's, and what changes is on the box's own disk", async () => {
    await using disk = await diskOf([makeTar(baseFiles)]);
    const before = readFileSync(disk.path);
    expect(visit("six", first("six"), disk.path)).toMatchObject({
      "change a file of the base": "done",
      "owner of /disk/file": "0",
      "owner of /disk/theirs": "1000",
      "change a file of another user": "done",
      "change a capable file": "done",
      "open a disk of the host": "EACCES",
      "change a file of nobody's": "EACCES",
      "read a layer": "ENOENT",
    });
    expect(readFileSync(disk.path).equals(before)).toBe(true);
    // A machine of before, whose base was a folder, has the same files on its own disk.
    expect(visit("six", first("six"))).toMatchObject({
      "owner of /disk/file": "0",
      "change a file of the base": "done",
    });
  });

  test("boxes of one base disk share one loop device, which goes with the last of them, however that ends", async () => {
    await using disk = await diskOf([makeTar(baseFiles)]);
    const boxes: ChildProcess[] = [];
    for (const name of ["seven", "eight", "nine"]) {
      const box = spawn(launcher(), [...boxOf(name, first(name), disk.path), "stay"], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      boxes.push(box);
      let output = "";
      box.stdout.on("data", (bytes: Buffer) => (output += bytes.toString()));
      await expect.poll(() => output, { timeout: 10_000 }).toContain("set the clock");
      expect(loopsOf(disk.path)).toHaveLength(1);
    }
    const [one, two, three] = boxes;
    const visitorOf = (box?: ChildProcess) =>
      Number(readFileSync(`/proc/${box?.pid}/task/${box?.pid}/children`, "utf8"));
    const visitors = [two, three].map(visitorOf);
    one?.stdin?.end();
    await once(one as ChildProcess, "exit");
    process.kill(visitors[0] ?? 0, "SIGKILL");
    await once(two as ChildProcess, "exit");
    expect(loopsOf(disk.path)).toHaveLength(1);
    three?.kill("SIGKILL");
    await once(three as ChildProcess, "exit");
    rmSync(disk.path);
    process.kill(visitors[1] ?? 0, "SIGKILL");
    await expect.poll(() => loopsOf(disk.path)).toEqual([]);
  });

  test("the launcher makes the disk from a packed one, and packs it for whoever asks while the box goes on", async () => {
    const own = first("packed");
    const folder = at("machines", "packed");
    const inFolder = (name: string) => join(folder, name);
    const pack = ["--create", "--sparse", "--file", inFolder("before.tar")];
    execFileSync("tar", [...pack, "--directory", folder, "disk.ext4"]);
    rmSync(inFolder("disk.ext4"));
    const options = [`packed=${inFolder("before.tar")}`, `packer=${inFolder("packer")}`];
    const box = spawn(launcher(), [...options, ...boxOf("packed", own, at("base")), "stay"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    let output = "";
    box.stdout.on("data", (bytes: Buffer) => (output += bytes.toString()));
    await expect.poll(() => output, { timeout: 10_000 }).toContain("set the clock");
    execFileSync("sync", ["-f", folder]);
    const answers: string[] = [];
    for (const line of ["pack\n", "once more\n"]) {
      const packer = connect(inFolder("packer")).setEncoding("utf8");
      packer.write(line);
      for await (const answer of packer) answers.push(String(answer));
    }
    expect(answers).toEqual(["ok\n", "ok\n"]);
    execFileSync("mv", [inFolder("disk.ext4"), inFolder("image")]);
    execFileSync("tar", ["--extract", "--file", inFolder("disk.tar"), "--directory", folder]);
    expect(execFileSync("cmp", [inFolder("disk.ext4"), inFolder("image/disk.ext4")], { encoding: "utf8" })).toBe("");
    // It has the privileges of nobody, and nothing of the box keeps it from ending with it.
    expect(readFileSync(`/proc/${box.pid}/status`, "utf8")).toMatch(/^CapEff:\s+0+$/m);
    box.stdin.end();
    expect(await once(box, "exit")).toEqual([0, null]);
  });

  test("an archive that is damaged ends the start by its name", () => {
    const own = first("damaged");
    writeFileSync(at("damaged.tar"), Buffer.alloc(1 << 20, 7));
    rmSync(at("machines", "damaged", "disk.ext4"));
    const start = () =>
      execFileSync(launcher(), [`packed=${at("damaged.tar")}`, ...boxOf("damaged", own, at("base"))], {
        stdio: "pipe",
      });
    expect(start).toThrow(`${at("damaged.tar")} cannot be unpacked, its header is damaged`);
  });

  test("an image that is no file system ends the start by its name, and leaves no loop device", () => {
    writeFileSync(at("noise"), Buffer.alloc(1 << 20, 7));
    expect(() => visit("ten", first("ten"), at("noise"))).toThrow(`mount ${at("noise")}: Invalid argument`);
    expect(loopsOf(at("noise"))).toEqual([]);
  });

  test("the next daemon knows the users of machines that run", async () => {
    const own = first("five");
    const next = await openUsers();
    const given = new Set<number>();
    const free = 1023 - readdirSync(at("machines")).length;
    for (let machine = 0; machine < free; machine++) given.add(next.take(`new-${machine}`));
    expect(given.has(own)).toBe(false);
    expect(() => next.take("one more")).toThrow("all users of 1023 machines are taken");
    next.giveBack("five");
    expect(next.take("one more")).toBe(own);
  });

  test("where mounts cannot show files as others', all machines have the same users, and why is said", async () => {
    const folder = at("foreign");
    mkdirSync(folder);
    chmodSync(folder, 0o755);
    execFileSync("mount", ["-t", "proc", "none", folder]);
    try {
      const shared = await openUsers(folder);
      expect(shared.sharedBecause).toMatch(/^mounts cannot show files as those of other users \(owners of .*: Invalid/);
      expect([shared.take("a"), shared.take("b")]).toEqual([firstFileOwner, firstFileOwner]);
    } finally {
      execFileSync("umount", [folder]);
    }
  });
});
