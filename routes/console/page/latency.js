/** The summary of a sandbox's latency samples: its last start, and its commands since. Pure. */

/** @typedef {import("../../../src/e2b/schemas.ts").SandboxLatency["samples"][number]} Sample */

/** The spans that begin a session. */
const starts = ["warm_snapshot_restore", "warm_pool_checkout"];

const stageNames = /** @type {const} */ ({
  warm_snapshot_restore: "Restore",
  warm_pool_checkout: "Warm checkout",
  ready_probe: "Ready probe",
  command_start: "Command start",
  first_stdout_byte: "First byte",
});

/**
 * @typedef {object} Stage
 * @property {keyof typeof stageNames} span
 * @property {string} name
 * @property {number} fromMs Since the beginning of the first stage, without the pauses of the client in between.
 * @property {number} durationMs
 */

/**
 * The stages from the last restore to the first byte of the first command after it, one after the other.
 * @param {readonly Sample[]} samples oldest first
 * @returns {{ stages: Stage[], totalMs: number, scenario: string, at: string } | undefined} undefined before any start
 */
export function lastStart(samples) {
  const start = samples.findLast(({ span }) => starts.includes(span));
  if (!start) return undefined;
  const since = samples.filter(({ at }) => at >= start.at);
  const first = (/** @type {string} */ span) => since.find((sample) => sample.span === span);
  const command = first("command_start");
  const byte = command && since.find(({ span, at }) => span === "first_stdout_byte" && at >= command.at);
  /** @type {Stage[]} */
  const stages = [];
  let fromMs = 0;
  for (const sample of [start, first("ready_probe"), command, byte]) {
    if (!sample) continue;
    const { durationMs } = sample;
    const span = /** @type {keyof typeof stageNames} */ (sample.span);
    stages.push({ span, name: stageNames[span], fromMs, durationMs });
    fromMs += durationMs;
  }
  return { stages, totalMs: fromMs, scenario: start.scenario, at: start.at };
}

/**
 * The number of commands, and the medians to their start and to their first byte.
 * @param {readonly Sample[]} samples
 */
export function commandsOf(samples) {
  const started = samples.filter(({ span }) => span === "command_start");
  const bytes = samples.filter(({ span }) => span === "first_stdout_byte");
  return { count: started.length, startMs: median(started), firstByteMs: median(bytes) };
}

/** @param {readonly Sample[]} samples */
function median(samples) {
  const sorted = samples.map(({ durationMs }) => durationMs).sort((a, b) => a - b);
  return sorted[Math.ceil(sorted.length / 2) - 1];
}
