/** The processes of a gVisor machine, each of which a test may hurt. */
import { readFileSync } from "node:fs";
import type { FaultWorld } from "./world.ts";

/** `keeper` stands for the machine, `launcher` is its parent, `sandbox` gVisor's kernel, `gofer` its helper for files. */
type MachinePart = "keeper" | "launcher" | "sandbox" | "gofer" | "guard";

/** The pid of a part of the machine that was started last. */
export function partOf(world: FaultWorld, part: MachinePart): number {
  const keeper = world.newestEngine().pid;
  const found = {
    keeper: () => keeper,
    launcher: () => Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${keeper}/status`, "utf8"))?.[1]),
    sandbox: () => childOf(keeper, "runsc-sandbox"),
    gofer: () => childOf(keeper, "runsc-gofer"),
    guard: () => world.networkGuardOf(world.subject.id),
  }[part]();
  if (!found) throw new Error(`the machine has no ${part}`);
  return found;
}

function childOf(pid: number, name: string): number | undefined {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
  const isNamed = (child: string) => readFileSync(`/proc/${child}/cmdline`, "utf8").split("\0")[0] === name;
  return children.filter(isNamed).map(Number)[0];
}
