/** The fault table: the outcomes of faults as they were seen. Neighbouring steps with one outcome share a line. */
import { fileURLToPath } from "node:url";
import { type LifecycleStep, lifecycleSteps } from "../../../src/lifecycle-steps.ts";
import type { TestedEngine } from "../daemon/engine-processes.ts";

/** `scripts/pages/faults.mjs` makes `docs/faults.md` of the tables of all engines. */
export function faultTablePath(engine: TestedEngine): string {
  return fileURLToPath(new URL(`../../../node_modules/.vitest/faults-${engine}.md`, import.meta.url));
}

type Seen = ReadonlyMap<LifecycleStep, string>;

export function faultTable(daemon: Seen, machine: Seen): string {
  const rows: { steps: string[]; outcome: string }[] = [];
  for (const step of lifecycleSteps) {
    const outcome = `${daemon.get(step) ?? "not seen"} | ${machine.get(step) ?? "–"}`;
    const last = rows.at(-1);
    const [family, name = ""] = step.split(".");
    if (last?.outcome === outcome && last.steps[0]?.startsWith(`${family}.`)) last.steps.push(name);
    else rows.push({ steps: [step], outcome });
  }
  return [
    "| at step | the daemon is killed | its machine is killed: answer; then |",
    "| --- | --- | --- |",
    ...rows.map(({ steps, outcome }) => `| \`${steps.join("`, `")}\` | ${outcome} |`),
    "",
  ].join("\n");
}
