/** The memory counter is in a guest's memory and nowhere else: a shell's variable, asked through two named pipes. */
import type { Sandbox } from "e2b";

const ask = "/dev/shm/counter-ask";
const tell = "/dev/shm/counter-tell";

/** Starts the counter at 0. The counter lives as long as the guest's memory. */
export async function startCounter(sandbox: Sandbox): Promise<void> {
  await sandbox.commands.run(`mkfifo ${ask} ${tell}`);
  const loop = `n=0; while read -r _ <${ask}; do n=$((n + 1)); echo $n >${tell}; done`;
  await sandbox.commands.run(loop, { background: true, timeoutMs: 0 });
}

/** Adds 1 to the counter and gives the new value. @throws when the counter has gone */
export async function count(sandbox: Sandbox): Promise<number> {
  const { stdout } = await sandbox.commands.run(`timeout 20 sh -c 'echo >${ask}; cat ${tell}'`);
  return Number(stdout);
}
