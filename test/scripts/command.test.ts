/** Programs that the set-up runs: their failures explain themselves, and they never outlive the set-up. */
import { spawn } from "node:child_process";
import { expect, test } from "vitest";
import { run } from "../../scripts/setup/command.mjs";

const commandModule = new URL("../../scripts/setup/command.mjs", import.meta.url).href;

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function waitUntilGone(pid: number): Promise<void> {
  while (isRunning(pid)) await new Promise((done) => setTimeout(done, 10));
}

test("a run returns standard output and reports every line of both outputs", async () => {
  const lines: string[] = [];
  const output = await run("sh", ["-c", "echo one; echo two >&2; printf three"], {
    onLine: (line) => lines.push(line),
  });
  expect(output).toBe("one\nthree");
  expect(lines.sort()).toEqual(["one", "three", "two"]);
});

test("a failure carries the status, the end of the output and a remedy", async () => {
  const failure = run("sh", ["-c", "echo the reason >&2; exit 3"], { remedy: "do this" });
  await expect(failure).rejects.toMatchObject({ name: "SetupError", remedy: "do this" });
  await expect(failure).rejects.toThrow(/status 3\n +the reason/);
});

test("an abort ends the program and the processes that it started", async () => {
  const interrupt = new AbortController();
  const pids: number[] = [];
  const running = run("sh", ["-c", "sleep 1000 & echo $!; wait"], {
    signal: interrupt.signal,
    onLine: (line) => {
      pids.push(Number(line));
      interrupt.abort(new Error("interrupted"));
    },
  });
  await expect(running).rejects.toThrow();
  expect(pids).toHaveLength(1);
  await waitUntilGone(pids[0] ?? 0);
});

test("a killed set-up takes its programs with it", async () => {
  const script = `import { run } from ${JSON.stringify(commandModule)};
    await run("sh", ["-c", "sleep 1000 & echo $!; wait"], { onLine: (line) => console.log(line) });`;
  const setUp = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const pid = await new Promise<number>((found) => setUp.stdout.once("data", (line) => found(Number(line))));
  expect(isRunning(pid)).toBe(true);
  setUp.kill("SIGKILL");
  await waitUntilGone(pid);
});
