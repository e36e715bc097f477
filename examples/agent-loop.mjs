/**
 * An agent loop without a model: decide, act in the sandbox, observe, until the task is done. `decide` stands where an
 * agent would ask its model. The loop meets a command that fails and a command that does not end.
 *
 *   eval "$(npx firkin env)" && node examples/agent-loop.mjs
 */
import { CommandExitError, Sandbox, TimeoutError } from "e2b";

const program = "print('The sum is', sum(int(line) for line in open('numbers.txt')))\n";

/**
 * Chooses the next action from what the last action came to; undefined: the task is done.
 * @typedef {{ write: string, text: string } | { run: string, timeoutMs: number }} Action
 * @param {string} observation
 * @returns {Action | undefined}
 */
function decide(observation) {
  if (observation.startsWith("Task:")) return { write: "sum.py", text: program };
  if (observation === "wrote sum.py") return { run: "python3 sum.py", timeoutMs: 60_000 };
  if (observation.includes("No such file"))
    return { run: "until test -e numbers.txt; do sleep 1; done", timeoutMs: 2_000 };
  if (observation.startsWith("timed out"))
    return { run: "seq 1 10 > numbers.txt && python3 sum.py", timeoutMs: 60_000 };
  if (observation.startsWith("The sum is")) return { write: "report.txt", text: observation };
  if (observation === "wrote report.txt") return undefined;
  throw new Error(`no action is known for this observation: ${observation}`);
}

/**
 * Does one action and says what came of it. A command that fails or takes too long is an observation like any other.
 * @param {Sandbox} sandbox
 * @param {Action} action
 */
async function act(sandbox, action) {
  if ("write" in action) {
    await sandbox.files.write(action.write, action.text);
    return `wrote ${action.write}`;
  }
  try {
    const { stdout } = await sandbox.commands.run(action.run, { timeoutMs: action.timeoutMs });
    return stdout.trim();
  } catch (error) {
    if (error instanceof CommandExitError) return `exit code ${error.exitCode}: ${error.stderr.trim()}`;
    if (error instanceof TimeoutError) return `timed out after ${action.timeoutMs} ms, and was killed`;
    throw error;
  }
}

// The sandbox ends by itself after five minutes, should this program not live to kill it.
const sandbox = await Sandbox.create({ timeoutMs: 300_000 });
try {
  let observation = "Task: report the sum of numbers.txt";
  console.log(observation);
  for (let action = decide(observation); action; action = decide(observation)) {
    console.log(`> ${JSON.stringify(action)}`);
    observation = await act(sandbox, action);
    console.log(observation);
  }
  console.log(`report.txt: ${await sandbox.files.read("report.txt")}`);
} finally {
  await sandbox.kill();
}
