/**
 * Sends a signal to one process.
 * @throws when there is no such pid: 0 and negative numbers stand for groups, the one of the tests among them
 */
export function killProcess(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined || !Number.isInteger(pid) || pid <= 1) throw new Error(`${pid} is no pid of a process`);
  process.kill(pid, signal);
}
