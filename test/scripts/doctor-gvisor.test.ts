/** The doctor's look at a host of the engine gvisor, from files that such a host would have. */
import { expect, test } from "vitest";
import { checkHaltPolling } from "../../scripts/doctor/gvisor.mjs";

const host = (governor: string | undefined, pollNs: string | undefined) => (path: string) =>
  path.endsWith("current_governor") ? governor : pollNs;

test("a virtual machine whose idle processors halt at once is advised to let them wait", () => {
  const [finding] = checkHaltPolling(host("haltpoll\n", "0\n"));
  expect(finding).toMatchObject({ level: "advice", remedy: expect.stringContaining("guest_halt_poll_ns") });
});

test("a host that waits, or that waits in another way, is told nothing", () => {
  expect(checkHaltPolling(host("haltpoll\n", "200000\n"))).toEqual([]);
  expect(checkHaltPolling(host("menu\n", "0\n"))).toEqual([]);
  expect(checkHaltPolling(host(undefined, undefined))).toEqual([]);
});
