/**
 * The test projects: `unit` needs nothing besides the npm packages, `tools` a compiler and other programs, `machines` the
 * engine that the daemon chooses on this host. `qemu` is that engine's own tests and a cross-section of `machines` on it;
 * `other engines` are those of gVisor and of the simulated Mac; `interpreter` is the code interpreter in guests.
 * scripts/cli/test-needs.mjs says which file is whose. `FIRKIN_TEST_ENGINE` names another engine for `machines` and
 * `interpreter`.
 */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { filesOf, listTestFiles } from "../scripts/cli/test-needs.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const files = listTestFiles(root);
/** What QEMU runs as well, where another engine is chosen. */
const crossSection = ["sdk/commands", "vm/restart", "vm/faults", "vm/full-disk"].map((name) => `test/${name}.test.ts`);

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
          name: "machines",
          include: filesOf("machines", files),
          maxWorkers: 1,
          globalSetup: ["test/support/daemon/shared-daemon.ts"],
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: "qemu",
          include: [...filesOf("qemu", files), ...crossSection],
          env: { FIRKIN_TEST_ENGINE: "qemu" },
          maxWorkers: 1,
          globalSetup: ["test/support/daemon/shared-daemon.ts"],
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
      {
        extends: true,
        test: {
          name: "interpreter",
          include: filesOf("interpreter", files),
          maxWorkers: 1,
          globalSetup: ["test/support/daemon/shared-daemon.ts"],
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
