/** The choice of an engine by `--engine auto`, on hosts where gVisor cannot be had, does not run, or is not allowed. */
import { execFile } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingForGvisor, runsc } from "../support/daemon/gvisor.ts";
import { missingForRealMachines, newStateDir, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, createOn } from "../support/daemon/requests.ts";

const run = promisify(execFile);
const repository = fileURLToPath(new URL("../..", import.meta.url));
const source = join(repository, "test/support/faults/no-namespaces.c");

interface Choice {
  readonly engine: string;
  readonly acceleration: string;
  readonly chosenBecause: string;
}

async function choiceOf(daemon: RealDaemon): Promise<Choice> {
  const response = await fetch(`${daemon.url}/health`, { headers: { accept: "application/json" } });
  return (await response.json()) as Choice;
}

/** What the doctor says of the engine. */
async function diagnose(program: string, enter: readonly string[] = []): Promise<string> {
  const doctor = [...enter, process.execPath, join(repository, "scripts/cli/firkin.mjs"), "doctor"];
  const [command = "", ...args] = doctor;
  const env = { ...process.env, FIRKIN_RUNSC: program, NO_COLOR: "1" };
  // The doctor fails where anything is missing on this host, and says everything all the same.
  const { stdout } = await run(command, args, { env }).catch((error: { stdout: string }) => error);
  return stdout.split("\n").find((line) => line.includes("engine gvisor")) ?? "";
}

describe.skipIf(missingForRealMachines() ?? missingForGvisor())("the engine of --engine auto", () => {
  let folder: string;
  let broken: string;
  /** Runs a program as container engines do. */
  let contained: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "fk-choice-"));
    broken = join(folder, "runsc");
    await writeFile(broken, "#!/bin/sh\necho 'this is another machine' >&2\nexit 1\n");
    await chmod(broken, 0o755);
    contained = join(folder, "no-namespaces");
    await run("cc", ["-o", contained, source]);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const start = async (args: readonly string[], enter: readonly string[] = []) => {
    const stateDir = await newStateDir("qemu");
    const daemon = await startDaemon({ stateDir, args: ["--engine", "auto", ...args], enter });
    return Object.assign(daemon, { removed: () => rm(stateDir, { recursive: true, force: true }) });
  };

  test.each([
    ["there is no runsc", () => "/nowhere/runsc", () => [], "there is no program /nowhere/runsc"],
    ["runsc does not run", () => broken, () => [], "does not run"],
    ["namespaces are refused", () => runsc, () => [contained], "Operation not permitted"],
  ])("%s: the next engine serves, and doctor and daemon say why", async (_, programOf, enterOf, problem) => {
    const [program, enter] = [programOf(), enterOf()];
    const daemon = await start(["--runsc", program], enter);
    try {
      const choice = await choiceOf(daemon);
      expect(choice.engine).toBe("qemu");
      expect(choice.chosenBecause).toContain(problem);
      const sandbox = await createOn(daemon);
      expect((await sandbox.commands.run("echo served")).stdout).toBe("served\n");
      expect(await diagnose(program, enter)).toContain(problem);
    } finally {
      await daemon[Symbol.asyncDispose]();
      await daemon.removed();
    }
  });

  test("gVisor serves where KVM does not work, and the choice stands in each place that tells of the engine", async () => {
    const daemon = await start(["--runsc", runsc]);
    try {
      const choice = await choiceOf(daemon);
      const expected = choice.acceleration === "kvm" ? "qemu" : "gvisor";
      expect(choice).toMatchObject({ engine: expected, chosenBecause: expect.stringContaining("KVM") });
      for (const path of ["/benchmarks", "/capacity"]) {
        const { engine, acceleration, chosenBecause } = choice;
        expect(await (await call(daemon, path)).json()).toMatchObject({ engine, acceleration, chosenBecause });
      }
      expect(daemon.log()).toContain(choice.chosenBecause);
    } finally {
      await daemon[Symbol.asyncDispose]();
      await daemon.removed();
    }
  });

  test("a state folder stays with the engine that has its sandboxes", async () => {
    const stateDir = await newStateDir("qemu");
    try {
      const first = await startDaemon({ stateDir, args: ["--engine", "qemu"] });
      const sandbox = await createOn(first);
      await sandbox.pause();
      await first.stop();
      await using next = await startDaemon({ stateDir, args: ["--engine", "auto", "--runsc", runsc] });
      const { engine, chosenBecause } = await choiceOf(next);
      expect([engine, chosenBecause]).toEqual(["qemu", expect.stringContaining("has sandboxes or templates of qemu")]);
      const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(next));
      expect((await again.commands.run("echo here")).stdout).toBe("here\n");
    } finally {
      await rm(stateDir, { recursive: true, force: true });
    }
  });
});
