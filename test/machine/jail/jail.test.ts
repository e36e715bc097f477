/**
 * The walls of the jail, looked at from inside: an intruder takes the place of an engine that its guest has taken over, and
 * tries what it would try. Needs root, because only root has all walls.
 */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, readFile, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type StoredEngine, storeEngine } from "../../../src/machine/jail/engine-store.ts";
import { type Cell, Jail, type JailedProcess } from "../../../src/machine/jail/jail.ts";
import { isRunning, waitUntilGone } from "../../../src/machine/processes.ts";
import { killProcess } from "../../support/kill-process.ts";

const isRoot = process.getuid?.() === 0;
/** Where the process sees it. */
const intruderPath = "/usr/lib/firkin/intruder";
const limits = { memoryBytes: 256 << 20, processors: 1 };
const log = pino({ level: "silent" });
/** Where groups of version 2 are, with or without controllers. */
const unified =
  ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].find((folder) => existsSync(join(folder, "cgroup.procs"))) ?? "";

describe.skipIf(!isRoot)(`the jail ${isRoot ? "" : "(skipped: only root has all walls)"}`, () => {
  let root = "";
  let jail: Jail;
  let engine: StoredEngine;
  const server = createServer();

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), "firkin-jail-"));
    await chmod(root, 0o700);
    await mkdir(join(root, "machines"));
    const program = join(root, "intruder");
    const source = fileURLToPath(new URL("intruder.c", import.meta.url));
    execFileSync("cc", ["-O1", "-static", "-pthread", "-w", "-o", program, source]);
    engine = await storeEngine([join(root, "engines")], {
      name: "intruder",
      version: "1",
      programs: ["/usr/bin/true", "/usr/bin/sleep"],
      files: [],
      added: [{ source: program, path: intruderPath }],
    });
    const options = { cacheFolder: root, machinesFolder: join(root, "machines"), ownedEntry: "run", log };
    jail = await Jail.open(options, { engine, command: "/usr/bin/true", args: [] });
    await once(server.listen(0, "127.0.0.1"), "listening");
  });
  afterAll(async () => {
    server.close();
    await rm(root, { recursive: true });
  });

  /** Opens a cell with a file of its own, and a file that all machines may read. */
  async function openCell(): Promise<{ name: string; cell: Cell; own: string; template: string }> {
    const name = randomUUID();
    const cell = await jail.openCell(name, limits);
    const folder = join(root, "machines", name);
    await mkdir(folder);
    const [own, template] = [join(folder, "own"), join(folder, "template")];
    await writeFile(own, "own");
    await writeFile(template, "template", { mode: 0o444 });
    if (cell.user !== undefined) await chown(own, cell.user, cell.user);
    return { name, cell, own, template };
  }

  const around = (cell: Cell, own: string, template: string, kind: "engine" | "network"): JailedProcess => ({
    engine,
    cell,
    writable: [own],
    readable: [template],
    devices: [],
    network: kind === "engine" ? "none" : "host",
    calls: kind,
    fileBytes: 1 << 20,
    environment: {},
  });

  async function intrude(kind: "engine" | "network"): Promise<{ results: Map<string, string>; cell: Cell }> {
    const [{ name, cell, own, template }, other] = [await openCell(), await openCell()];
    const logPath = join(root, `${kind}.log`);
    const port = String((server.address() as AddressInfo).port);
    const args = [port, String(process.pid), own, template, other.own];
    const started = await jail.start({
      ...around(cell, own, template, kind),
      role: "vm",
      command: intruderPath,
      args,
      logPath,
      descriptors: [],
    });
    const patience = setTimeout(() => {}, 60_000);
    await started.exited;
    clearTimeout(patience);
    for (const machine of [name, other.name]) await jail.closeCell(machine);
    const lines = (await readFile(logPath, "utf8")).trim().split("\n");
    return { cell, results: new Map(lines.map((line) => [line.replace(/ \S+$/, ""), line.split(" ").at(-1) ?? ""])) };
  }

  test("every wall stands on this host, or says why it does not", () => {
    for (const { name, detail } of jail.walls) expect(detail, name).not.toBe("");
    expect(jail.level).toBe("full");
    const standing = jail.walls.filter(({ stands }) => stands).map(({ name }) => name);
    expect(standing).toEqual(
      expect.arrayContaining(["user", "files", "processes", "network", "capabilities", "calls"]),
    );
  });

  test.each(["engine", "network"] as const)("a process of kind %s owns nothing but its own machine", async (kind) => {
    const { results, cell } = await intrude(kind);
    const outcome = Object.fromEntries(results);
    expect(outcome).toMatchObject({
      uid: String(cell.user),
      "read /etc/shadow": "ENOENT",
      "write /etc/cron.d": expect.stringMatching(/ENOENT|EROFS/),
      "write a file in /": "EROFS",
      "write its own file": "done",
      "read the template": "done",
      "write the template": expect.stringMatching(/EACCES|EROFS/),
      "own the template": expect.stringMatching(/EPERM|EROFS/),
      "read another machine": "ENOENT",
      "trace the daemon": expect.stringMatching(/EPERM|ESRCH/),
      "packet socket": "EPERM",
      mount: "EPERM",
      // EINVAL: in a user namespace of its own, in which root is nobody.
      "become root": expect.stringMatching(/EPERM|EINVAL/),
      bpf: "EPERM",
      perf: "EPERM",
      userfaultfd: "EPERM",
      keys: "EPERM",
      io_uring: "EPERM",
      "load a module": "EPERM",
      thread: "done",
      core: "0",
    });
    // No process outside of its namespace has a number there; and the daemon is somebody else's.
    expect(outcome["signal the daemon"]).toMatch(/ESRCH|EPERM/);
    expect([...results.keys()].filter((key) => key === "descriptor")).toEqual([]);
    if (kind === "engine") {
      expect(outcome).toMatchObject({ fork: "EPERM", "connect to the daemon": "EPERM", "user namespace": "EPERM" });
    } else {
      // The packet filter drops what passt may never send, where there is one.
      const filters = jail.walls.find(({ name }) => name === "addresses")?.stands;
      expect(outcome["connect to the daemon"]).toBe(filters ? "EINPROGRESS" : "done");
    }
  });

  test("machines have users of their own, which rest before they are given out again", async () => {
    const cells = [await openCell(), await openCell()];
    expect(new Set(cells.map(({ cell }) => cell.user)).size).toBe(2);
    for (const { name } of cells) await jail.closeCell(name);
    const next = await openCell();
    expect(cells.map(({ cell }) => cell.user)).not.toContain(next.cell.user);
    await jail.closeCell(next.name);
  });

  test("a process is found by its own pid, bounded by its groups, and its end says how it ended", async () => {
    const { name, cell, own, template } = await openCell();
    const started = await jail.start({
      ...around(cell, own, template, "engine"),
      role: "vm",
      command: "/usr/bin/sleep",
      args: ["60"],
      logPath: join(root, "sleep.log"),
      descriptors: [],
    });
    const { pid } = started.identity;
    expect(isRunning(started.identity)).toBe(true);
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    expect(status).toMatch(new RegExp(`^Uid:\\s+${cell.user}\\s`, "m"));
    expect(status).toMatch(/^CapEff:\s+0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(status).toMatch(/^Seccomp:\s+2$/m);
    expect(Number(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8"))).toBeGreaterThan(0);
    for (const group of cell.groups) {
      expect(readFileSync(join(group, "cgroup.procs"), "utf8")).toContain(String(pid));
    }
    killProcess(pid, "SIGKILL");
    const patience = setTimeout(() => {}, 60_000);
    expect(await started.exited).toBe("ended by SIGKILL");
    clearTimeout(patience);
    expect(await waitUntilGone(started.identity, 10_000)).toBe(true);
    await jail.closeCell(name);
    expect(cell.groups.filter((group) => existsSync(group))).toEqual([]);
  });

  test.skipIf(!unified)("a process begins inside its group of version 2, and its launcher stays outside", async () => {
    const { name, cell, own, template } = await openCell();
    const group = join(unified, `firkin-test-${process.pid}`);
    await mkdir(group);
    const started = await jail.start({
      ...around(
        { ...cell, groups: [...cell.groups.filter((each) => !each.startsWith(unified)), group] },
        own,
        template,
        "engine",
      ),
      role: "vm",
      command: "/usr/bin/sleep",
      args: ["60"],
      logPath: join(root, "unified.log"),
      descriptors: [],
    });
    expect(readFileSync(join(group, "cgroup.procs"), "utf8")).toBe(`${started.identity.pid}\n`);
    killProcess(started.identity.pid, "SIGKILL");
    expect(await waitUntilGone(started.identity, 10_000)).toBe(true);
    await jail.closeCell(name);
    await rmdir(group);
  });

  test("what cannot be started says so, and leaves no process", async () => {
    const { name, cell, own, template } = await openCell();
    const start = jail.start({
      ...around(cell, own, template, "engine"),
      role: "vm",
      command: "/usr/bin/missing",
      args: [],
      logPath: join(root, "missing.log"),
      descriptors: [],
    });
    await expect(start).rejects.toThrow("run /usr/bin/missing: No such file or directory");
    await jail.closeCell(name);
  });

  test("groups that a daemon left which died are removed by the next one", async () => {
    const cell = await jail.openCell("left", limits);
    const options = { cacheFolder: root, machinesFolder: join(root, "machines"), ownedEntry: "run", log };
    await Jail.open(options, { engine, command: "/usr/bin/true", args: [] });
    expect(cell.groups.filter((group) => existsSync(group))).toEqual([]);
    expect((await stat(root)).isDirectory()).toBe(true);
  });
});
