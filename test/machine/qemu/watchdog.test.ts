/** Tests of the watchdog of boots, over a pretended QEMU and pretended processor times. */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { identifyProcess, waitedForProcessorMs } from "../../../src/machine/processes.ts";
import { type EngineWork, judgeBoot, waitForInit } from "../../../src/machine/qemu/watchdog.ts";

const second = 1_000;
const work = (wallMs: number, cpuMs: number | undefined, waitedMs = 0): EngineWork => ({ wallMs, cpuMs, waitedMs });

test("a boot hangs when it uses the processor in vain, or not at all, and not because its host is busy", () => {
  const fresh = work(0, 0);
  // Beside twenty others: 5 % of a processor, and the rest of the time it waits for one.
  expect(judgeBoot(work(60 * second, 3 * second, 57 * second), work(90 * second, 5 * second))).toBe("goes_on");
  expect(judgeBoot(work(7 * second, 7 * second), work(50 * second, 50 * second))).toBe("goes_on");
  expect(judgeBoot(work(8 * second, 8 * second), work(9 * second, 9 * second))).toBe("hung");
  expect(judgeBoot(work(4 * second, 8 * second), work(9 * second, 9 * second))).toBe("hung");
  expect(judgeBoot(work(8 * second, 100), work(9 * second, second))).toBe("hung");
  expect(judgeBoot(work(7 * second, 100), work(9 * second, second))).toBe("goes_on");
  expect(judgeBoot(fresh, work(61 * second, 60 * second))).toBe("hung");
  expect(judgeBoot(work(120 * second, second, 119 * second), work(130 * second, second))).toBe("hung");
  expect(judgeBoot(fresh, work(600 * second, 30 * second))).toBe("hung");
  // Nobody knows what it used.
  expect(judgeBoot(work(8 * second, undefined), work(9 * second, undefined))).toBe("hung");
  expect(judgeBoot(work(7 * second, undefined), work(9 * second, undefined))).toBe("goes_on");
});

/** A QEMU whose guest says one text for each look, each so much work after the one before; then nothing. */
function qemuThatSays(texts: readonly (string | Error)[], step: EngineWork, status = "running") {
  let looks = 0;
  const qmp = {
    async execute(command: string): Promise<unknown> {
      if (command === "query-status") return { status };
      const text = texts[looks++] ?? "";
      if (text instanceof Error) throw text;
      return text;
    },
  };
  const readWork = () => work(looks * step.wallMs, looks * (step.cpuMs ?? 0), looks * step.waitedMs);
  return { qmp, readWork };
}

test("a boot on a starved host is waited for, although QEMU does not answer now and then", async () => {
  const late = new DomainError("deadline_exceeded", "QEMU did not answer ringbuf-read within 5000 ms");
  const { qmp, readWork } = qemuThatSays(
    ["Linux", late, late, late, "Run /init as init process"],
    work(20 * second, second, 19 * second),
  );
  await waitForInit(qmp, { readWork });
});

test("a boot that hangs is given up with the end of its console", async () => {
  const { qmp, readWork } = qemuThatSays(["Booting\n"], work(3 * second, 3 * second));
  await expect(waitForInit(qmp, { readWork })).rejects.toMatchObject({
    code: "deadline_exceeded",
    message: expect.stringMatching(/hung, seen after 12000 ms, in which it had 12000 ms .*Booting/s),
  });
  const blocked = qemuThatSays([], work(3 * second, 0), "io-error");
  await expect(waitForInit(blocked.qmp, blocked)).rejects.toMatchObject({ code: "disk_pressure" });
});

test("the time that a process waited for a processor is counted", () => {
  const own = identifyProcess("vm", process.pid);
  if (!own) throw new Error("this process does not run");
  const before = waitedForProcessorMs(own);
  for (const end = performance.now() + 50; performance.now() < end; ) {}
  expect(waitedForProcessorMs(own)).toBeGreaterThanOrEqual(before);
  expect(waitedForProcessorMs({ ...own, pid: 2 ** 30 })).toBe(0);
});
