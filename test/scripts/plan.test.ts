/** What the set-up would do on each system; the Mac's own commands can be run on a Mac only. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { planSteps, type Scope, scopes, selectSteps, servingScope } from "../../scripts/setup/plan.mjs";
import { systemRemedy } from "../../scripts/setup/platform.mjs";
import { storageRoots } from "../../scripts/setup/roots.mjs";

const roots = storageRoots();
const plan = ({ steps, withDev = false }: Scope, platform: string) =>
  selectSteps(planSteps(roots, withDev, platform), steps).map(({ name, needs }) => [name, ...needs].join(" < "));

test("a Mac takes Apple's tools, npm and Debian's archive, and guests make what only Linux can", () => {
  const programs = ["command-line-tools", "npm < command-line-tools", "build < npm"];
  expect(plan(scopes.programs, "darwin")).toEqual(programs);
  expect(plan(scopes.machines, "darwin")).toEqual([
    ...programs,
    "guest-packages < npm",
    "guest-kernel < guest-packages",
    "helper < command-line-tools",
    "guest-agent < guest-kernel < helper < build",
    "guest-disk < guest-agent",
    "assets < guest-disk",
  ]);
  expect(plan(scopes.development, "darwin")).toEqual(programs);
  expect(plan(scopes.bench, "darwin")).toEqual(plan(scopes.machines, "darwin"));
});

test("on Linux serving takes Debian's packages and what guests boot, and nothing that is for tests", () => {
  expect(plan(scopes.programs, "linux")).toEqual(["packages", "npm", "build < npm"]);
  expect(plan(scopes.machines, "linux")).toEqual([
    "packages",
    "names",
    "npm",
    "build < npm",
    "kernel < packages",
    "base-disk < packages < kernel",
    "agent < packages",
    "guest-programs < packages",
    "assets < base-disk < kernel < agent < guest-programs",
  ]);
});

test("serving renews the code interpreter's disk, in the variant that is there", () => {
  const folder = mkdtempSync(join(tmpdir(), "firkin-plan-"));
  try {
    const there = { ...roots, assets: folder };
    expect(servingScope("gvisor", there)).toEqual({ steps: scopes.gvisor.steps });
    for (const [variant, debian] of [
      ["lean", "base-disk"],
      ["full", "r-java-disk"],
    ]) {
      writeFileSync(join(folder, "code-interpreter.json"), JSON.stringify({ variant }));
      const disk = `code-interpreter-disk-${variant}`;
      expect(servingScope("machines", there).steps).toEqual([...scopes.machines.steps, disk]);
      expect(plan(servingScope("machines", there), "linux")).toContain(
        `${disk} < npm < ${debian} < code-interpreter-wheels-${variant}`,
      );
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.each(["darwin", "linux"])("on %s no step comes before one that it needs or that goes first", (platform) => {
  const done = new Set<string>();
  for (const { name, needs, after = [] } of planSteps(roots, true, platform)) {
    expect([...done]).toEqual(expect.arrayContaining([...needs, ...after]));
    done.add(name);
  }
});

test("a system that no engine runs on is told why", () => {
  expect(systemRemedy({ platform: "linux", arch: "x64", release: "6.1.0" })).toBeUndefined();
  expect(systemRemedy({ platform: "darwin", arch: "arm64", release: "23.0.0" })).toBeUndefined();
  expect(systemRemedy({ platform: "darwin", arch: "arm64", release: "22.6.0" })).toContain("macOS 14");
  expect(systemRemedy({ platform: "darwin", arch: "x64", release: "24.0.0" })).toContain("Apple silicon");
  expect(systemRemedy({ platform: "win32", arch: "x64", release: "10" })).toContain("needs Linux");
});
