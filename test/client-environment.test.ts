/** What the command line prints of the daemon's key, and where. */
import { expect, test } from "vitest";
import { describeAccess, describeStart } from "../src/client-environment.ts";

const apiKey = `e2b_${"0".repeat(40)}`;
const address = { url: "http://127.0.0.1:3000" };

test("a start shows the key on a terminal, and says elsewhere how to get it", () => {
  const shown = describeStart("1.0.0", apiKey, address, { isTTY: true });
  expect(shown).toContain(`export E2B_API_KEY=${apiKey}\n`);
  expect(shown).toContain(`console: http://127.0.0.1:3000/#key=${apiKey}\n`);
  for (const output of [{}, { isTTY: false }]) {
    const kept = describeStart("1.0.0", apiKey, address, output);
    expect(kept).not.toContain(apiKey);
    expect(kept).toContain("firkin 1.0.0 listens on http://127.0.0.1:3000\n");
    expect(kept).toContain("npx firkin env");
  }
});

test("the environment is for a shell, and the link in it is a comment", () => {
  const lines = describeAccess(apiKey, address).trimEnd().split("\n");
  expect(lines.filter((line) => !/^export [A-Z0-9_]+=\S+$/.test(line))).toEqual([
    `# console: http://127.0.0.1:3000/#key=${apiKey}`,
  ]);
});
