/** Two suites: unit tests, a file per core at a time; and tests on real VMs, one file after the other. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const realMachines = ["test/vm/**/*.test.ts", "test/sdk/**/*.test.ts"];

export default defineConfig({
  root: fileURLToPath(new URL("..", import.meta.url)),
  test: {
    // scripts/cli/test.mjs counts from the report.
    reporters: ["default", ["json", { outputFile: "node_modules/.vitest/report.json" }]],
    // An emulated CPU, and hosts that are busy with other things: slow is not wrong. These end what never comes.
    testTimeout: 180_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 30_000 } },
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: realMachines,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: "real machines",
          include: realMachines,
          maxWorkers: 1,
          globalSetup: ["test/sdk/shared-daemon.ts"],
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
