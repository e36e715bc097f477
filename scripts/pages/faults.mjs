#!/usr/bin/env node
/** The second half of `npm run faults`: writes the tables that test/vm/faults.test.ts has left into docs/faults.md. */
import { existsSync, readFileSync } from "node:fs";
import { originLine, writeGenerated } from "./page.mjs";

/** @type {Record<string, string[]>} The engines of each table with their versions and days, because most agree. */
const engines = {};
for (const engine of ["gvisor", "qemu"]) {
  const path = new URL(`../../node_modules/.vitest/faults-${engine}.md`, import.meta.url);
  if (!existsSync(path)) continue;
  const text = readFileSync(path, "utf8");
  const [seenOn = "", table = ""] = [text.slice(0, text.indexOf("\n")), text.slice(text.indexOf("\n") + 1)];
  if (table.includes("not seen")) throw new Error(`the run on ${engine} did not reach every step; nothing is written`);
  engines[table] = [...(engines[table] ?? []), seenOn];
}
const tables = Object.entries(engines).map(([table, seenOn]) => `Seen on ${seenOn.join(" and ")}:\n\n${table}`);
if (tables.length === 0) throw new Error("there is no table; `npm run faults` makes them");
writeGenerated("docs/faults.md", "npm run faults", `${originLine("the engines below")}\n\n${tables.join("\n")}`);
process.stdout.write("docs/faults.md is written\n");
