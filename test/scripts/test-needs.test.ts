/** What `npm test -- PATH` sets up, and which project a test file belongs to. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { filesOf, listTestFiles, needs, stepsFor } from "../../scripts/cli/test-needs.mjs";
import { planSteps } from "../../scripts/setup/plan.mjs";
import { storageRoots } from "../../scripts/setup/roots.mjs";

const roots = storageRoots();
const files = listTestFiles(roots.repository);

test("unit tests need the npm packages only, other tests what their rows say", () => {
  expect(stepsFor(["test/ledger"], files)).toEqual(["npm"]);
  expect(stepsFor(["./test/ledger/open.test.ts", "-t", "opens"], files)).toEqual(["npm"]);
  expect(stepsFor(["guest-agent/files"], files)).toEqual(["npm", "compiler"]);
  expect(stepsFor(["test/sdk/console.test.ts"], files)).toContain("browser");
  expect(stepsFor(["test/sdk/files"], files)).not.toContain("browser");
});

test("all tests, and arguments that select no file, need what every row says", () => {
  const steps = new Set(needs.flatMap((need) => need.steps));
  expect(stepsFor([], files)).toEqual(expect.arrayContaining([...steps]));
  expect(stepsFor(["-t", "no file is named so"], files)).toEqual(expect.arrayContaining([...steps]));
});

test("every row fits a test file and names steps that Linux has", () => {
  const names = planSteps(roots, true, "linux").map(({ name }) => name);
  for (const { path, steps } of needs) {
    expect([path, files.some((file) => file.startsWith(path))]).toEqual([path, true]);
    expect(names).toEqual(expect.arrayContaining([...steps]));
  }
});

test("no unit test imports a helper that compiles the guest agent or starts another program", () => {
  const helpers =
    /support\/(guest\/(local-agent|local-session|built-agent)|clients\/(browser|python-sdk|e2b-cli))\.ts"/;
  const importing = filesOf("unit", files).filter((file) => {
    return helpers.test(readFileSync(join(roots.repository, file), "utf8"));
  });
  expect(importing).toEqual([]);
});
