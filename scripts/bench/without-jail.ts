/** The jail taken away, for the row that measures what it costs: processes of engines are started as they are. */
import { join } from "node:path";
import { spawnDetached } from "../../src/machine/detached-process.ts";
import { type Cell, Jail, type JailedCommand } from "../../src/machine/jail/jail.ts";

/** A machine without a user and groups of its own. */
const noCell: Cell = { user: undefined, groups: [] };

/** Does `work` in this process without the jail. Nothing else may start machines here meanwhile. */
export async function withoutJail<T>(work: () => Promise<T>): Promise<T> {
  const { spawn, openCell } = Jail.prototype;
  Jail.prototype.spawn = spawnDirectly;
  Jail.prototype.openCell = async () => noCell;
  try {
    return await work();
  } finally {
    Object.assign(Jail.prototype, { spawn, openCell });
  }
}

function spawnDirectly({ role, command, args, logPath, descriptors, engine, environment }: JailedCommand) {
  // The library lies in the engine's folder, which a process in the jail sees as its root.
  const { LD_PRELOAD: library, FIRKIN_READ_ONLY: image = "" } = environment;
  const variables = library ? { LD_PRELOAD: join(engine.folder, library), FIRKIN_READ_ONLY: image } : {};
  Object.assign(process.env, variables);
  return spawnDetached({ role, command, args, logPath, descriptors, variables: Object.keys(variables) }).finally(() => {
    for (const name of Object.keys(variables)) delete process.env[name];
  });
}
