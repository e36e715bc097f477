/**
 * The users of machines: every machine runs as a user and group of its own, out of a range that no account of the host is
 * in, so that a machine's processes can touch neither another machine's files nor its processes.
 */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../../errors.ts";

/** Above the ranges of accounts, of subordinate ids and of systemd's containers; below 2^31. */
export const firstMachineUser = 1_879_048_192;
/** Each state folder has a block of its own, by the hash of its path. */
const blocks = 1024;
const usersPerBlock = 4096;
export const lastMachineUser = firstMachineUser + blocks * usersPerBlock - 1;

export class MachineUsers {
  /** Runs what belongs to no machine. */
  readonly spare: number;
  readonly #first: number;
  readonly #byMachine = new Map<string, number>();
  readonly #taken = new Set<number>();
  #next = 0;

  private constructor(block: number) {
    this.spare = firstMachineUser + block * usersPerBlock;
    this.#first = this.spare + 1;
  }

  /**
   * Takes up the users of machines that an earlier daemon started.
   * @param ownedEntry what in a machine's folder belongs to its user
   */
  static async open(machinesFolder: string, ownedEntry: string): Promise<MachineUsers> {
    const users = new MachineUsers(createHash("sha256").update(machinesFolder).digest().readUInt32BE() % blocks);
    for (const machine of await readdir(machinesFolder)) {
      const found = await stat(join(machinesFolder, machine, ownedEntry)).catch(() => undefined);
      if (found && found.uid >= firstMachineUser && found.uid <= lastMachineUser) users.#give(machine, found.uid);
    }
    return users;
  }

  /** A user that no other machine has. Users are given out in turn, so that one that was given back rests longest. */
  take(machine: string): number {
    for (let tried = 0; tried < usersPerBlock - 1; tried++) {
      const user = this.#first + this.#next;
      this.#next = (this.#next + 1) % (usersPerBlock - 1);
      if (this.#taken.has(user)) continue;
      this.#give(machine, user);
      return user;
    }
    throw new DomainError("capacity_exhausted", `all ${usersPerBlock - 1} users of machines are taken`);
  }

  of(machine: string): number | undefined {
    return this.#byMachine.get(machine);
  }

  /** Idempotent. */
  giveBack(machine: string): void {
    const user = this.#byMachine.get(machine);
    this.#byMachine.delete(machine);
    if (user !== undefined) this.#taken.delete(user);
  }

  #give(machine: string, user: number): void {
    this.#byMachine.set(machine, user);
    this.#taken.add(user);
  }
}
