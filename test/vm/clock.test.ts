/** A real daemon whose wall clock jumps, as on a host that slept or whose clock was set. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, createOn, logLines } from "../support/daemon/requests.ts";

const hourMs = 3_600_000;

describe.skipIf(missingForRealMachines())("a wall clock that jumps", () => {
  let folder: string;
  let daemon: RealDaemon;
  let offsetMs = 0;

  const offsetFile = () => join(folder, "offset");
  /** Sets the clock of the daemon on, or back. */
  function jump(ms: number): void {
    offsetMs += ms;
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(offsetMs));
    writeFileSync(offsetFile(), bytes, { flag: "r+" });
  }
  const jumps = () =>
    logLines(daemon).filter(({ msg }) => msg.startsWith("the host slept or its clock was set")).length;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "fk-"));
    writeFileSync(offsetFile(), Buffer.alloc(8));
    const library = join(folder, "wall-clock.so");
    const source = fileURLToPath(new URL("../support/faults/wall-clock.c", import.meta.url));
    execFileSync("cc", ["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, source]);
    daemon = await startDaemon({ env: { LD_PRELOAD: library, WALL_CLOCK_FILE: offsetFile() } });
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  test("by hours or days ends no sandbox early, and every sandbox in time", async () => {
    const connection = connectionTo(daemon);
    const long = await createOn(daemon, { timeoutMs: 600_000 });
    for (const [at, ms] of [2 * hourMs, -50 * hourMs].entries()) {
      jump(ms);
      await expect.poll(jumps, { timeout: 30_000 }).toBe(at + 1);
      expect((await long.commands.run("echo still here")).stdout).toBe("still here\n");
      const { endAt } = await long.getInfo();
      const remainingMs = endAt.getTime() - (Date.now() + offsetMs);
      expect(remainingMs).toBeGreaterThan(0);
      expect(remainingMs).toBeLessThanOrEqual(600_000);
    }
    const short = await createOn(daemon, { timeoutMs: 3_000 });
    const ids = async () => (await Sandbox.list(connection).nextItems()).map(({ sandboxId }) => sandboxId);
    await expect.poll(ids, { timeout: 60_000 }).toEqual([long.sandboxId]);
    expect(short.sandboxId).not.toBe(long.sandboxId);
  });
});
