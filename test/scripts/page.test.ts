/** Generated parts of pages: what is between the markers of one command is replaced, and nothing else. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { originLine, withGenerated } from "../../scripts/pages/page.mjs";

const [opening, closing] = ["<!-- written by `npm run x`: do not edit -->", "<!-- end of `npm run x` -->"];
const page = (text: string) => `# Title\n\nProse.\n\n${opening}\n\n${text}\n\n${closing}\n\nMore prose.\n`;

test("the part between a command's markers is replaced", () => {
  expect(withGenerated(page("old"), "npm run x", "new\n")).toBe(page("new"));
  expect(withGenerated(page("new"), "npm run x", "new")).toBe(page("new"));
});

test("a page without the command's markers is refused", () => {
  expect(() => withGenerated(page("old"), "npm run y", "new")).toThrow("npm run y");
  expect(() => withGenerated("no markers", "npm run x", "new")).toThrow("lacks the markers");
});

test.each([
  ["benchmarks.md", "npm run bench"],
  ["benchmarks.md", "npm run load"],
  ["faults.md", "npm run faults"],
])("docs/%s has the markers of %s", (name, command) => {
  const content = readFileSync(new URL(`../../docs/${name}`, import.meta.url), "utf8");
  expect(withGenerated(content, command, "new")).toContain("\n\nnew\n\n");
});

test("the origin of numbers names day, commit, engine, machine and Node.js, and no host", () => {
  const line = originLine("QEMU 7.2.22", "2026-11-27T17:00:00Z");
  expect(line).toMatch(
    /^2026-11-27, commit ([0-9a-f]{7,}( with changes)?|unknown); QEMU 7\.2\.22;\n\d+ cores, \d+ GiB of memory; /,
  );
  expect(line).toContain(`Node.js ${process.versions.node}`);
});
