/** The box of a gVisor machine, looked at from inside by a visitor in the place of its keeper. */
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BoxUsers, firstFileOwner } from "../../../src/machine/gvisor/users.ts";
import { titleOf } from "../../support/skipped-title.ts";

const sourceOf = (path: string) => fileURLToPath(new URL(path, import.meta.url));
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
    for (const folder of ["mount", "cache", "base", "restored", "machines"]) mkdirSync(at(folder));
    writeFileSync(at("base", "file"), "base");
    writeFileSync(at("restored", "checkpoint.img"), "saved", { mode: 0o600 });
    for (const path of [at("base"), at("base", "file"), at("restored", "checkpoint.img")]) give(path, firstFileOwner);
    users = await openUsers();
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  const openUsers = (machinesFolder = at("machines")) =>
    BoxUsers.open({ launcher: launcher(), mountPoint: at("mount"), cacheFolder: at("cache"), machinesFolder });

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

  function visit(name: string, first: number): Record<string, string> {
    const folder = at("machines", name);
    const options = [
      `folder=${folder}`,
      `mount=${at("mount")}`,
      `base=${at("base")}`,
      `disk=${join(folder, "disk.ext4")}`,
      `ro=${at("visitor")}:/visitor`,
      `ro=${at("restored")}:/restored`,
      `rw=${join(folder, "image")}:/image`,
      `users=${first}`,
      `owners=${firstFileOwner}`,
      "oom=500",
    ];
    const output = execFileSync(launcher(), [...options, "--", "/visitor"], { encoding: "utf8" });
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

  test("the next daemon knows the users of machines that run", async () => {
    const own = first("five");
    const next = await openUsers();
    const given = new Set<number>();
    for (let machine = 0; machine < 1018; machine++) given.add(next.take(`new-${machine}`));
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
