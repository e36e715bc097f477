/**
 * The users of machines: every machine runs as users and groups of its own, out of a range that no account of the host
 * is in, so that a machine's processes can touch neither another machine's files nor its processes.
 */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../../errors.ts";

/** Where users come from. Each state folder has a block of its own, by the hash of its path. */
export interface UserPlan {
  readonly first: number;
  readonly blocks: number;
  readonly machinesPerBlock: number;
  /** How many users in a row a machine gets. */
  readonly usersPerMachine: number;
}

/** Above the ranges of accounts, of subordinate ids and of systemd's containers; below 2^31. */
const oneUserEach: UserPlan = { first: 1_879_048_192, blocks: 1024, machinesPerBlock: 4096, usersPerMachine: 1 };
export const firstMachineUser = oneUserEach.first;
export const lastMachineUser = afterLast(oneUserEach) - 1;

/** The first number that is no user of the plan. */
function afterLast({ first, blocks, machinesPerBlock, usersPerMachine }: UserPlan): number {
  return first + blocks * machinesPerBlock * usersPerMachine;
}

export class MachineUsers {
  /** Runs what belongs to no machine. */
  readonly spare: number;
  readonly #plan: UserPlan;
  readonly #byMachine = new Map<string, number>();
  readonly #taken = new Set<number>();
  #next: number;

  private constructor(plan: UserPlan, stateFolder: string) {
    const { first, blocks, machinesPerBlock, usersPerMachine } = plan;
    const hash = createHash("sha256").update(stateFolder).digest();
    this.#plan = plan;
    this.spare = first + (hash.readUInt32BE() % blocks) * machinesPerBlock * usersPerMachine;
    // Two folders with one block begin at different places in it.
    this.#next = hash.readUInt32BE(4) % (machinesPerBlock - 1);
  }

  /**
   * Takes up the users of machines that an earlier daemon started.
   * @param ownedEntry what in a machine's folder belongs to its first user
   */
  static async open(machinesFolder: string, ownedEntry: string, plan: UserPlan = oneUserEach): Promise<MachineUsers> {
    const users = new MachineUsers(plan, machinesFolder);
    for (const machine of await readdir(machinesFolder)) {
      const found = await stat(join(machinesFolder, machine, ownedEntry)).catch(() => undefined);
      if (found && found.uid >= plan.first && found.uid < afterLast(plan)) users.#give(machine, found.uid);
    }
    return users;
  }

  /**
   * The first of a machine's users, which no other machine has. Users are given out in turn, so that those that were
   * given back rest longest.
   */
  take(machine: string): number {
    const { machinesPerBlock, usersPerMachine } = this.#plan;
    for (let tried = 0; tried < machinesPerBlock - 1; tried++) {
      const user = this.spare + (1 + this.#next) * usersPerMachine;
      this.#next = (this.#next + 1) % (machinesPerBlock - 1);
      if (this.#taken.has(user)) continue;
      this.#give(machine, user);
      return user;
    }
    throw new DomainError("capacity_exhausted", `all users of ${machinesPerBlock - 1} machines are taken`);
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
