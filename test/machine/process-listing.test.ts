/** The output of `ps`, as a Mac would print it and as the `ps` of this host does. */
import { afterEach, expect, test, vi } from "vitest";
import { listArguments, listPids, listProcess, parseListedProcess } from "../../src/machine/process-listing.ts";

afterEach(() => vi.unstubAllEnvs());

test("a line of ps on macOS", () => {
  expect(parseListedProcess("S+   Mon Nov  3 09:07:01 2026 /Users/a b/firkin-vz")).toEqual({
    state: "S",
    startTime: String(Date.UTC(2026, 10, 3, 9, 7, 1)),
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

test("the start of a process is the same in every time zone", () => {
  const starts = ["UTC", "America/New_York", "Asia/Tokyo"].map((zone) => {
    vi.stubEnv("TZ", zone);
    return listProcess(process.pid)?.startTime;
  });
  expect(new Set(starts).size).toBe(1);
  expect(Math.abs(Number(starts[0]) - (Date.now() - process.uptime() * 1000))).toBeLessThan(60_000);
});
