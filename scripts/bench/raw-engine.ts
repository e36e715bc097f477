/**
 * The raw engine, the baseline of the bench: the same engine, snapshot and guest agent as the daemon's, driven
 * directly. The difference is what the daemon adds.
 */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import Database from "better-sqlite3";
import { pino } from "pino";
import { readConfig } from "../../src/config.ts";
import { openEngine } from "../../src/daemon-engine.ts";
import type { GuestAgent } from "../../src/guest/agent.ts";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import type { Vm, VmDriver } from "../../src/machine/driver.ts";
import { readSnapshot } from "../../src/machine/snapshot-files.ts";
import { readGuestAssets } from "../../src/template/assets/guest-assets.ts";

const log = pino({ level: "warn" }, pino.destination(2));

export interface RawMachine {
  readonly vm: Vm;
  readonly agent: GuestAgent;
}

export class RawEngine implements AsyncDisposable {
  readonly driver: VmDriver;
  readonly #snapshotFolder: string;
  /** The machines that are started and not ended yet. */
  readonly #machines = new Set<Vm>();
  readonly #starting = new Set<Promise<unknown>>();
  #closing = false;

  private constructor(driver: VmDriver, snapshotFolder: string) {
    this.driver = driver;
    this.#snapshotFolder = snapshotFolder;
  }

  /** Opens the engine beside a running daemon, on that daemon's base template. */
  static async open(stateDir: string, cacheDir: string, engine: readonly string[] = []): Promise<RawEngine> {
    const config = readConfig(["--cache-dir", cacheDir, ...engine], process.env);
    const assets = await readGuestAssets(cacheDir);
    const { driver } = await openEngine({
      config,
      assets,
      machinesFolder: join(stateDir, "raw"),
      heldEngines: [],
      log,
    });
    return new RawEngine(driver, baseSnapshotFolder(stateDir));
  }

  /** Restores a machine up to the agent's first answer. */
  async restore(): Promise<RawMachine> {
    if (this.#closing) throw new Error("the bench is ending");
    const starting = this.#restore();
    this.#starting.add(starting);
    try {
      return await starting;
    } finally {
      this.#starting.delete(starting);
    }
  }

  async terminate({ vm, agent }: RawMachine): Promise<void> {
    agent.close();
    await vm.terminate();
    this.#machines.delete(vm);
  }

  async terminateAll(): Promise<void> {
    await Promise.all([...this.#machines].map((vm) => vm.terminate()));
    this.#machines.clear();
  }

  /** Ends all machines, those being started included. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    await Promise.allSettled(this.#starting);
    await this.terminateAll();
    await this.driver[Symbol.asyncDispose]();
  }

  async #restore(): Promise<RawMachine> {
    const manifest = await readSnapshot(this.#snapshotFolder);
    const sessionId = randomUUID().replaceAll("-", "");
    const vm = await this.driver.restore({ sessionId, snapshotFolder: this.#snapshotFolder, manifest });
    this.#machines.add(vm);
    const agent = await connectGuestAgent(await vm.openGuestLink(), { deadlineMs: 15_000, log });
    await agent.ping();
    return { vm, agent };
  }
}

/** Runs a command as the SDK does and waits for its end; calls back at its first output. */
export async function rawCommand(agent: GuestAgent, command: string, onFirstOutput = () => {}): Promise<void> {
  const process = await agent.exec({
    command: "/bin/bash",
    args: ["-l", "-c", command],
    envs: {},
    user: "user",
    stdin: false,
  });
  let first = true;
  for await (const _ of process.output) {
    if (first) onFirstOutput();
    first = false;
  }
  await process.end;
}

function baseSnapshotFolder(stateDir: string): string {
  const db = new Database(join(stateDir, "ledger.db"), { readonly: true });
  try {
    const row = db.prepare("select folder from snapshots where kind = 'template' and state = 'ready'").get();
    return (row as { folder: string }).folder;
  } finally {
    db.close();
  }
}
