/** The output of `ps`, as a Mac would print it and as the `ps` of this host does. */
import { expect, test } from "vitest";
import { listArguments, listPids, listProcess, parseListedProcess } from "../../src/machine/process-listing.ts";

test("a line of ps on macOS", () => {
  expect(parseListedProcess("S+   Mon Nov  3 09:07:01 2026 /Users/a b/firkin-vz")).toEqual({
    state: "S",
    startTime: String(Date.parse("Nov 3 2026 09:07:01")),
    command: "/Users/a b/firkin-vz",
  });
  for (const line of ["", "\n", "S", "S yesterday node"]) expect(parseListedProcess(line)).toBeUndefined();
});

test("this very process is found, the same each time, and a pid without a process is not", () => {
  const found = listProcess(process.pid);
  expect(found).toMatchObject({ state: expect.stringMatching(/^[A-Z]$/), startTime: expect.stringMatching(/^\d+$/) });
  expect(listProcess(process.pid)?.startTime).toBe(found?.startTime);
  expect(listArguments(process.pid)).toContain("node");
  expect(listPids()).toContain(process.pid);
  expect(listProcess(2 ** 22 + 1)).toBeUndefined();
});
