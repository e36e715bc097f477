/**
 * The test projects: `unit` needs nothing besides the npm packages, `tools` a compiler and other programs, `sdk` the
 * engine that the daemon chooses on this host, `real machines` QEMU, `other engines` one besides that.
 * scripts/cli/test-needs.mjs says which file is whose. `FIRKIN_TEST_ENGINE` names another engine for `sdk` and `real
 * machines`.
 */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { filesOf, listTestFiles } from "../scripts/cli/test-needs.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const files = listTestFiles(root);
/** What of the SDK suite QEMU runs as well, where another engine is chosen. */
const crossSection = ["commands"].map((name) => `test/sdk/${name}.test.ts`);

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
          name: "sdk",
          include: filesOf("sdk", files),
          maxWorkers: 1,
          globalSetup: ["test/sdk/shared-daemon.ts"],
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: "real machines",
          include: [...filesOf("real machines", files), ...crossSection],
          env: { FIRKIN_TEST_ENGINE: process.env.FIRKIN_TEST_ENGINE ?? "qemu" },
          maxWorkers: 1,
          globalSetup: ["test/sdk/shared-daemon.ts"],
          sequence: { groupOrder: 2 },
        },
      },
      {
        extends: true,
        test: {
          name: "other engines",
          include: filesOf("other engines", files),
          maxWorkers: 1,
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
});
