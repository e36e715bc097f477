/**
 * Leftovers: compares the ledger of a daemon's home with the processes, sockets, folders and reservations that exist.
 * All of it is read from outside while the daemon runs, and a thing that one side lacks is named.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename, join } from "node:path";
import Database from "better-sqlite3";
import { isRunning } from "../../../src/machine/processes.ts";
import type { MachineRecord } from "../../../src/types.ts";
import { isMachineOf } from "../daemon/engine-processes.ts";
import type { DaemonHome } from "../daemon/home.ts";

interface Owner {
  readonly name: string;
  readonly reservation: string | null;
  readonly machine: MachineRecord | null;
}

/** A sentence for each thing that does not fit; none when all is in order and nothing is under way. */
export function leftoversOf(home: DaemonHome, daemonPid: number): string[] {
  const ledger = new Database(join(home.stateDir, "ledger.db"), { readonly: true });
  try {
    const owners = ownersIn(ledger);
    return [
      ...unfinished(ledger),
      ...reservationsOf(ledger, owners),
      ...processesOf(home, owners, daemonPid),
      ...machineFolders(home, owners),
      ...kernelObjects(home, owners),
      ...snapshotFolders(ledger, home),
      ...openedAndDeleted(home, daemonPid),
    ];
  } finally {
    ledger.close();
  }
}

/** The sandboxes, warm entries and builds that have, or may have, a machine and capacity. */
function ownersIn(ledger: Database.Database): Owner[] {
  const rows = ledger
    .prepare(
      `select 'sandbox ' || id as name, reservation_id as reservation, machine from sandboxes
         where state not in ('paused', 'terminated')
       union all select 'warm entry ' || id, reservation_id, machine from warm_entries
         where state in ('warming', 'ready')
       union all select 'build ' || id, reservation_id, machine from template_build_jobs where state = 'building'`,
    )
    .all() as { name: string; reservation: string | null; machine: string | null }[];
  return rows.map((row) => ({ ...row, machine: row.machine ? (JSON.parse(row.machine) as MachineRecord) : null }));
}

function unfinished(ledger: Database.Database): string[] {
  const rows = ledger
    .prepare(
      `select 'sandbox ' || id || ' is ' || state as text from sandboxes
         where state not in ('running', 'paused', 'terminated')
       union all select 'warm entry ' || id || ' is ' || state from warm_entries where state = 'warming'
       union all select 'build ' || id || ' is ' || state from template_build_jobs where state = 'building'
       union all select 'snapshot ' || id || ' is ' || state from snapshots where state in ('making', 'quarantined')
       union all select 'continuation ' || id || ' belongs to nobody' from snapshots
         where state = 'ready' and kind = 'continuation'
           and id not in (select snapshot_id from sandboxes where state = 'paused')
       union all select 'template snapshot ' || id || ' belongs to nobody' from snapshots
         where state = 'ready' and kind = 'template' and id not in (select snapshot_id from template_builds)
           and id not in (select snapshot_id from build_layers)`,
    )
    .all() as { text: string }[];
  return rows.map(({ text }) => text);
}

function reservationsOf(ledger: Database.Database, owners: readonly Owner[]): string[] {
  const rows = ledger.prepare("select id from reservations where state = 'held'").all() as { id: string }[];
  const held = rows.map(({ id }) => id);
  const owned = owners.map(({ reservation }) => reservation);
  return [
    ...held.filter((id) => !owned.includes(id)).map((id) => `reservation ${id} is held for nobody`),
    ...owners.filter(({ reservation }) => !held.includes(reservation ?? "")).map(({ name }) => `${name} holds nothing`),
  ];
}

function processesOf(home: DaemonHome, owners: readonly Owner[], daemonPid: number): string[] {
  const recorded = owners.flatMap(({ name, machine }) =>
    (machine?.processes ?? []).map((identity) => ({ name, identity })),
  );
  const known = new Set(recorded.map(({ identity }) => identity.pid));
  // The packet guard of a network starts the network's other processes. One network waits for the next machine as a
  // child of the daemon. Networks that an earlier daemon had waiting have lost their parent.
  const isKnown = (pid: number): boolean => {
    const parent = parentOf(pid);
    return known.has(pid) || pid === daemonPid || (parent !== undefined && parent > 1 && isKnown(parent));
  };
  const strays = home.processes().filter(({ pid, command }) => {
    // The launcher of a process in the jail or in a box ends with that process.
    if (/^\S*\/(jail|box)-\w+ /.test(command)) return !childrenOf(pid).some(isKnown);
    return isMachineOf(home.engine, command) ? !known.has(pid) : !isKnown(pid);
  });
  return [
    ...recorded
      .filter(({ identity }) => !isRunning(identity))
      .map(({ name, identity }) => `${basename(identity.executable)} (pid ${identity.pid}) of ${name} does not run`),
    ...strays.map(({ pid, command }) => `process ${pid} is nobody's: ${command.slice(0, 120)}`),
  ];
}

function machineFolders(home: DaemonHome, owners: readonly Owner[]): string[] {
  const owned = owners.map(({ machine }) => machine?.sessionId);
  const there = readdirSync(home.machinesFolder);
  return [
    ...there.filter((name) => !owned.includes(name)).map((name) => `machine folder ${name} is nobody's`),
    ...owned.filter((name) => name && !there.includes(name)).map((name) => `machine folder ${name} is missing`),
    ...listeningSockets(home)
      .filter((path) => !there.some((name) => path.startsWith(join(home.machinesFolder, name))))
      .map((path) => `socket ${path} is nobody's`),
  ];
}

/** Control groups and loop devices that were made for machines. */
function kernelObjects(home: DaemonHome, owners: readonly Owner[]): string[] {
  const owned = owners.flatMap(({ machine }) => machine?.sessionId ?? []);
  const isOwned = (name: string) => owned.some((session) => name.includes(session));
  const prefix = `firkin-${createHash("sha256").update(home.machinesFolder).digest("hex").slice(0, 8)}-`;
  const hierarchies = ["", "memory", "pids", "cpu"].map((name) => join("/sys/fs/cgroup", name));
  const groups = hierarchies.flatMap((folder) =>
    existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith(prefix)) : [],
  );
  const images = readdirSync("/sys/block").flatMap((device) => backingFileOf(device) ?? []);
  return [
    ...groups.filter((name) => !isOwned(name)).map((name) => `control group ${name} is nobody's`),
    ...images
      .filter((path) => path.startsWith(`${home.machinesFolder}/`) && !isOwned(path))
      .map((path) => `${path} is still attached to a loop device`),
  ];
}

function backingFileOf(device: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${device}/loop/backing_file`, "utf8").trim();
  } catch {
    // It is no loop device, or a free one.
    return undefined;
  }
}

function snapshotFolders(ledger: Database.Database, home: DaemonHome): string[] {
  const rows = ledger.prepare("select folder from snapshots where state <> 'deleted'").all() as { folder: string }[];
  const known = rows.map(({ folder }) => basename(folder));
  const there = readdirSync(join(home.stateDir, "snapshots"));
  return [
    ...there.filter((name) => !known.includes(name)).map((name) => `snapshot folder ${name} is nobody's`),
    ...known.filter((name) => !there.includes(name)).map((name) => `snapshot folder ${name} is missing`),
  ];
}

/** Deleted files that the daemon still has open, so that their bytes stay on the disk. */
function openedAndDeleted(home: DaemonHome, daemonPid: number): string[] {
  const folder = `/proc/${daemonPid}/fd`;
  return readdirSync(folder).flatMap((fd) => {
    try {
      const target = readlinkSync(join(folder, fd));
      return target.startsWith(home.stateDir) && target.endsWith(" (deleted)") ? [`${target} is still open`] : [];
    } catch {
      // The descriptor was closed meanwhile.
      return [];
    }
  });
}

function listeningSockets(home: DaemonHome): string[] {
  const paths = readFileSync("/proc/net/unix", "utf8").split("\n");
  return paths.map((line) => line.slice(line.indexOf("/"))).filter((path) => path.startsWith(home.stateDir));
}

function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  } catch {
    return undefined;
  }
}

/** Empty for a process that has ended. */
function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}
