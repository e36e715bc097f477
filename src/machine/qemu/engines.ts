/**
 * The QEMUs of this host: the one that is installed now, and those that earlier snapshots were made by, each in the engine
 * store with its libraries and its firmware.
 */
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { buildTool, exists } from "../build-tool.ts";
import type { KeptEngine } from "../driver.ts";
import { listEngines, listStore, removeStored, type StoredEngine, storeEngine } from "../jail/engine-store.ts";
import { Jail } from "../jail/jail.ts";
import { networkEngineName } from "../network/network.ts";
import { ownedEntry } from "./machine-files.ts";

const run = promisify(execFile);

export const engineCommand = "qemu-system-x86_64";
/** Where every system has it. */
export const enginePath = `/usr/bin/${engineCommand}`;
const engineName = "qemu";
/** Where distributions keep QEMU's modules. */
const moduleFolders = [
  "/usr/lib/x86_64-linux-gnu/qemu",
  "/usr/lib/aarch64-linux-gnu/qemu",
  "/usr/lib64/qemu",
  "/usr/lib/qemu",
];
const firmwareFolder = "/usr/share/qemu";
/** What the `microvm` machine loads. */
const firmware = ["bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"];
const preloadPath = "/usr/lib/firkin/private-memory.so";

/** A QEMU of the store. */
export interface QemuEngine extends StoredEngine {
  /** As QEMU sees it, the library that is preloaded into it: see `private-memory.c`. */
  readonly privateMemory: string;
}

/** The stores of engines. */
interface Stores {
  readonly cached: string;
  /** In the state folder. */
  readonly own: string;
}

export class QemuEngines {
  readonly current: QemuEngine;
  #all: readonly QemuEngine[];
  readonly #stores: Stores;

  private constructor(current: QemuEngine, all: readonly QemuEngine[], stores: Stores) {
    this.current = current;
    this.#all = all;
    this.#stores = stores;
  }

  /**
   * Puts the installed QEMU into the store, unless it is there.
   * @param storeFolder in the state folder, because an engine of before cannot be had again
   * @throws DomainError `failed_precondition` when QEMU is missing or lacks a part
   */
  static async open(storeFolder: string, cacheFolder: string): Promise<QemuEngines> {
    const version = await readEngineVersion();
    const [modules, library] = await Promise.all([
      findModules(),
      buildTool({ beside: import.meta.url, source: "private-memory.c", kind: "library" }, cacheFolder),
    ]);
    const files = firmware.map((name) => join(firmwareFolder, name));
    const present = await Promise.all(files.map(exists));
    const stores = { cached: join(cacheFolder, "engines"), own: storeFolder };
    const stored = await storeEngine([stores.cached, stores.own], {
      name: engineName,
      version,
      programs: [enginePath, ...modules],
      files: files.filter((_, at) => present[at]),
      added: [{ source: library, path: preloadPath }],
    });
    const current = asQemu(stored);
    const kept = (await listEngines(storeFolder, engineName)).filter(({ folder }) => folder !== stored.folder);
    return new QemuEngines(current, [current, ...kept.map(asQemu)], stores);
  }

  /**
   * The engine that a snapshot names.
   * @throws DomainError `failed_precondition` naming the versions that there are
   */
  find(version: string): QemuEngine {
    const [found] = this.all(version);
    if (found) return found;
    const versions = [...new Set(this.#all.map((engine) => engine.version))].join(", ");
    const problem = `the snapshot was made by qemu ${version}, and here there is qemu ${versions}: make it anew`;
    throw new DomainError("failed_precondition", problem);
  }

  /** Every copy of a version; the one that snapshots of it get comes first. */
  all(version: string): QemuEngine[] {
    return this.#all.filter((engine) => engine.version === version);
  }

  /**
   * The copies that new machines do not get, in both stores.
   * @param inUse other folders of the stores that are in use, besides those of QEMU
   */
  async others(inUse: readonly string[]): Promise<KeptEngine[]> {
    const { cached, own } = this.#stores;
    const used = new Set([...inUse, this.current.folder, join(cached, basename(this.current.folder))]);
    const listed = await Promise.all(
      [cached, own].map(async (store) => {
        const entries = await listStore(store, [engineName, networkEngineName]);
        return entries.map((entry) => ({ ...entry, isCached: store === cached }));
      }),
    );
    return listed.flat().filter(({ folder }) => !used.has(folder));
  }

  /** Every copy of the network's programs. */
  async networkFolders(): Promise<string[]> {
    return (await listEngines(this.#stores.cached, networkEngineName)).map(({ folder }) => folder);
  }

  async remove(folder: string): Promise<void> {
    this.#all = this.#all.filter((engine) => engine.folder !== folder);
    await removeStored(folder);
  }
}

/** Opens the engines of this host, and the jail that they are started in. @throws as {@link QemuEngines.open} and the jail */
export async function openJail(options: {
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  readonly log: Logger;
}): Promise<{ engines: QemuEngines; jail: Jail }> {
  const { machinesFolder, cacheFolder } = options;
  const engines = await QemuEngines.open(join(dirname(machinesFolder), "engines"), cacheFolder);
  const trial = { engine: engines.current, command: enginePath, args: ["--version"] };
  return { engines, jail: await Jail.open({ ...options, ownedEntry }, trial) };
}

const asQemu = (engine: StoredEngine): QemuEngine => ({ ...engine, privateMemory: preloadPath });

async function findModules(): Promise<string[]> {
  const folders = await Promise.all(
    [...moduleFolders, join(dirname(enginePath), "../lib/qemu")].map(async (folder) => {
      const names = await readdir(folder).catch(() => []);
      return names.filter((name) => /^accel-tcg-.*\.so$/.test(name)).map((name) => join(folder, name));
    }),
  );
  return [...new Set(folders.flat())];
}

/** @throws DomainError `failed_precondition` when there is no QEMU */
async function readEngineVersion(): Promise<string> {
  try {
    const { stdout } = await run(enginePath, ["--version"]);
    const version = /version (\d+\.\d+\.\d+)/.exec(stdout)?.[1];
    if (version) return version;
    throw new DomainError("failed_precondition", `${engineCommand} does not tell its version`);
  } catch (error) {
    if (error instanceof DomainError) throw error;
    const problem = `${engineCommand} does not run (${messageOf(error)}). Run: apt-get install qemu-system-x86`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  }
}
