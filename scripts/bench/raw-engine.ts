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
  /** The disk that every machine of `base` stands on. */
  readonly baseDisk: string;
  readonly #stateDir: string;
  /** The snapshots of templates that were restored already. */
  readonly #folders = new Map<string, string>();
  /** The machines that are started and not ended yet. */
  readonly #machines = new Set<Vm>();
  readonly #starting = new Set<Promise<unknown>>();
  #closing = false;

  private constructor(driver: VmDriver, baseDisk: string, stateDir: string) {
    this.driver = driver;
    this.baseDisk = baseDisk;
    this.#stateDir = stateDir;
  }

  /** Opens the engine beside a running daemon, on that daemon's templates. */
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
    return new RawEngine(driver, assets.baseDisk, stateDir);
  }

  /** Restores a machine of a template up to the agent's first answer. */
  async restore(template = "base"): Promise<RawMachine> {
    if (this.#closing) throw new Error("the bench is ending");
    const starting = this.#restore(this.#snapshotFolderOf(template));
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

  #snapshotFolderOf(template: string): string {
    const known = this.#folders.get(template);
    if (known !== undefined) return known;
    const db = new Database(join(this.#stateDir, "ledger.db"), { readonly: true });
    try {
      const query = `select folder from template_aliases
        join template_tags using (template_id)
        join template_builds on template_builds.id = build_id
        join snapshots on snapshots.id = snapshot_id
        where alias = ? and tag = 'default' and state = 'ready'`;
      const { folder } = db.prepare(query).get(template) as { folder: string };
      this.#folders.set(template, folder);
      return folder;
    } finally {
      db.close();
    }
  }

  async #restore(snapshotFolder: string): Promise<RawMachine> {
    const manifest = await readSnapshot(snapshotFolder);
    const sessionId = randomUUID().replaceAll("-", "");
    const vm = await this.driver.restore({ sessionId, snapshotFolder, manifest });
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
