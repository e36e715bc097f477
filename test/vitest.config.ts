/**
 * The test projects: `unit` needs nothing besides the npm packages, `tools` a compiler and other programs, `real machines`
 * an engine that boots guests, `other engines` one besides that. scripts/cli/test-needs.mjs says which file is whose.
 */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { filesOf, listTestFiles } from "../scripts/cli/test-needs.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const files = listTestFiles(root);

export default defineConfig({
  root,
  test: {
    // scripts/cli/test.mjs counts from the report, and names it where two are written at the same time.
    reporters: [
      "default",
      ["json", { outputFile: process.env.FIRKIN_TEST_REPORT ?? "node_modules/.vitest/report.json" }],
    ],
    // An emulated CPU, and hosts that are busy with other things: slow is not wrong. These end what never comes.
    testTimeout: 180_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 30_000 } },
    coverage: { provider: "v8", include: ["src/**/*.ts", "routes/**/*.ts"], reporter: ["text-summary", "html"] },
    projects: [
      {
        extends: true,
        // Files share their worker's modules: loading these anew for each file is a third of the processor time.
        test: {
          name: "unit",
          include: filesOf("unit", files),
          maxWorkers: 2,
          isolate: false,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: { name: "tools", include: filesOf("tools", files), maxWorkers: 2, sequence: { groupOrder: 0 } },
      },
      {
        extends: true,
        test: {
          name: "real machines",
          include: filesOf("real machines", files),
          maxWorkers: 1,
          globalSetup: ["test/sdk/shared-daemon.ts"],
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: "other engines",
          include: filesOf("other engines", files),
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
