/**
 * The users of boxes. Each machine has 65,536 users of the host of its own, so that a sandbox process that its guest has
 * taken over is nobody to other machines. The files of disks and checkpoints, on which any machine may stand, have owners of
 * their own; the mounts of a box show them as its users'. Where the kernel or a file system cannot do that, all machines run
 * as the owners.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { messageOf } from "../../errors.ts";
import { lastMachineUser, MachineUsers, type UserPlan } from "../jail/machine-users.ts";

const run = promisify(execFile);

/** The first of the 65,536 owners of files. No user of a machine and no account of the host is among them. */
export const firstFileOwner = lastMachineUser + 1;

/** They own nothing on any disk. The last numbers, among them that for "no user", are in no block. */
const ownUsers: UserPlan = { first: 2 ** 31, blocks: 31, machinesPerBlock: 1024, usersPerMachine: 65_536 };

/** What of a machine's folder belongs to its first user. */
const ownedEntry = "image";

export interface BoxUsersOptions {
  readonly launcher: string;
  readonly mountPoint: string;
  /** Absolute, and on a file system that can show files as others'. */
  readonly machinesFolder: string;
}

export class BoxUsers {
  /** Why all machines have the same users; undefined when each has its own. */
  readonly sharedBecause: string | undefined;
  readonly #users: MachineUsers;

  private constructor(users: MachineUsers, sharedBecause: string | undefined) {
    this.#users = users;
    this.sharedBecause = sharedBecause;
  }

  /** Tries once what this host can do, and takes up the users of machines that an earlier daemon started. */
  static async open(options: BoxUsersOptions): Promise<BoxUsers> {
    const users = await MachineUsers.open(options.machinesFolder, ownedEntry, ownUsers);
    return new BoxUsers(users, await tryOwners(options, users.spare));
  }

  /** The first user of a new machine. */
  take(machine: string): number {
    return this.sharedBecause === undefined ? this.#users.take(machine) : firstFileOwner;
  }

  /** Idempotent. */
  giveBack(machine: string): void {
    this.#users.giveBack(machine);
  }
}

/** Why mounts cannot show files as others'; undefined when they can. */
async function tryOwners(options: BoxUsersOptions, users: number): Promise<string | undefined> {
  const { launcher, mountPoint, machinesFolder } = options;
  const folders = [`folder=${machinesFolder}`, `mount=${mountPoint}`, `base=${machinesFolder}`];
  const numbers = [`ro=${machinesFolder}:/machines`, `users=${users}`, `owners=${firstFileOwner}`];
  try {
    await run(launcher, ["try-owners", ...folders, ...numbers, "--", "nothing"]);
    return undefined;
  } catch (error) {
    return `mounts cannot show files as those of other users (${/error: (.*)/.exec(messageOf(error))?.[1] ?? messageOf(error)})`;
  }
}
