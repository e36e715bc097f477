/**
 * Pause and fork: a process with a number in its memory goes on after a pause, and after a fork it goes on twice.
 *
 *   eval "$(npx firkin env)" && node examples/pause-and-fork.mjs
 */
import { Sandbox } from "e2b";

/** Adds one for every line that it reads, and prints the number. The number is nowhere but in its memory. */
const counter = "n=0; while read -r line; do n=$((n + 1)); echo $n; done";

/**
 * Sends the counter a line and gives the number that it answers.
 * @param {Sandbox} sandbox
 * @param {number} pid
 * @returns {Promise<string>}
 */
async function count(sandbox, pid) {
  /** @type {(text: string) => void} */
  let answer = () => {};
  const answered = new Promise((resolve) => {
    answer = resolve;
  });
  const connected = await sandbox.commands.connect(pid, { onStdout: (text) => answer(text.trim()) });
  await sandbox.commands.sendStdin(pid, "next\n");
  const number = await answered;
  await connected.disconnect();
  return number;
}

const sandbox = await Sandbox.create({ timeoutMs: 300_000 });
/** @type {Sandbox[]} */
const forks = [];
try {
  const { pid } = await sandbox.commands.run(counter, { background: true, stdin: true, timeoutMs: 0 });
  console.log(`the counter says ${await count(sandbox, pid)}`);

  await sandbox.pause();
  console.log(`the sandbox is ${(await sandbox.getInfo()).state} and its processes stand still`);
  await sandbox.connect();
  console.log(`after the resume the counter says ${await count(sandbox, pid)}`);

  for (const fork of await sandbox.fork({ count: 2, timeoutMs: 300_000 })) {
    if (fork instanceof Error) throw fork;
    forks.push(fork);
  }
  const numbers = [];
  for (const each of [sandbox, ...forks]) numbers.push(await count(each, pid));
  console.log(`the counters of the sandbox and its two forks say ${numbers.join(", ")}`);
} finally {
  for (const each of [sandbox, ...forks]) await each.kill();
}
