#!/usr/bin/env node
/** The second half of `npm run faults`: writes the table that test/vm/faults.test.ts has left into docs/faults.md. */
import { readFileSync } from "node:fs";
import { originLine, qemuVersion, writeGenerated } from "./page.mjs";

const table = readFileSync(new URL("../../node_modules/.vitest/faults.md", import.meta.url), "utf8");
if (table.includes("not seen")) throw new Error("the run did not reach every step; docs/faults.md stays as it is");
writeGenerated("docs/faults.md", "npm run faults", `${originLine(qemuVersion())}\n\n${table}`);
process.stdout.write("docs/faults.md is written\n");
