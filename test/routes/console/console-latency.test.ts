/** The console's summary of latency samples. */
import { expect, test } from "vitest";
import { commandsOf, lastStart } from "../../../routes/console/page/latency.js";

const at = (second: number) => `2026-01-01T00:00:${String(second).padStart(2, "0")}.000Z`;
const sample = (span: string, durationMs: number, second: number, scenario = "create") => {
  return { span, durationMs, at: at(second), scenario };
};

test("the stages follow each other, from the restore to the first byte of the first command", () => {
  const samples = [
    sample("warm_snapshot_restore", 60, 1),
    sample("ready_probe", 40, 1),
    sample("command_start", 10, 5),
    sample("start.resume_to_first_stdout_ms", 4_000, 5),
    sample("first_stdout_byte", 5, 5),
    sample("command_start", 99, 9),
  ];
  expect(lastStart(samples)).toEqual({
    stages: [
      { span: "warm_snapshot_restore", name: "Restore", fromMs: 0, durationMs: 60 },
      { span: "ready_probe", name: "Ready probe", fromMs: 60, durationMs: 40 },
      { span: "command_start", name: "Command start", fromMs: 100, durationMs: 10 },
      { span: "first_stdout_byte", name: "First byte", fromMs: 110, durationMs: 5 },
    ],
    totalMs: 115,
    scenario: "create",
    at: at(1),
  });
});

test("of several starts the last one counts, with the commands after it only", () => {
  const earlier = [sample("warm_pool_checkout", 5, 1, "pool"), sample("command_start", 10, 2)];
  const samples = [...earlier, sample("snapshot_save", 80, 3), sample("warm_snapshot_restore", 70, 4, "resume")];
  const start = lastStart(samples);
  expect([start?.stages.map(({ name }) => name), start?.scenario]).toEqual([["Restore"], "resume"]);
  expect(lastStart(earlier)?.stages.map(({ name }) => name)).toEqual(["Warm checkout", "Command start"]);
});

test("without samples there is no start", () => {
  expect(lastStart([])).toBeUndefined();
  expect(commandsOf([])).toEqual({ count: 0, startMs: undefined, firstByteMs: undefined });
});

test("commands are counted, and the median is one that was measured", () => {
  const samples = [30, 10, 20, 90].map((ms) => sample("command_start", ms, 1));
  expect(commandsOf(samples)).toEqual({ count: 4, startMs: 20, firstByteMs: undefined });
});
