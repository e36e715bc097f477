/** The start of a helper: one detached process per machine, with its sockets in the machine's folder. */
import { join } from "node:path";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import { type DetachedProcess, readLogTail, startDetached } from "../detached-process.ts";
import { endProcess } from "../processes.ts";
import { HelperClient } from "./helper-client.ts";

export const helperCommand = "firkin-vz";
export const controlSocketName = "control.sock";
export const streamSocketName = "streams.sock";
export const helperLogName = "helper.log";

/** macOS allows 103 bytes and a NUL, Linux four more. One limit for both lets every host judge a state folder alike. */
const maxSocketPathBytes = 103;

/** The framework keeps files of its own in the user's folders. */
const variables = ["HOME", "TMPDIR", "USER", "LOGNAME"];

/**
 * From SIGTERM to SIGKILL. A helper ends its machine first, and waits for a save or a restore that is under way. One that
 * is killed may leave its machine running.
 */
export const terminatedGraceMs = 13_000;

export interface StartedHelper {
  readonly process: DetachedProcess;
  readonly client: HelperClient;
}

/**
 * Refuses a folder in which the sockets of a machine cannot be bound, before anything is made.
 * @throws DomainError `invalid_argument` when their paths are too long
 */
export function checkSocketPaths(folder: string): void {
  const longest = Buffer.byteLength(join(folder, controlSocketName));
  if (longest <= maxSocketPathBytes) return;
  const problem = `a socket in it would have a path of ${longest} bytes and macOS allows ${maxSocketPathBytes}`;
  throw new DomainError(
    "invalid_argument",
    `${folder} is too long: ${problem}. Move the state folder to a shorter path.`,
  );
}

/**
 * Starts a helper and connects to it.
 * @throws DomainError `machine_failed` quoting the helper's log, `failed_precondition` for a helper of another version;
 *   no process is left then
 */
export async function startHelper(
  helper: string,
  folder: string,
  { deadlineMs, signal }: { readonly deadlineMs: number; readonly signal?: AbortSignal | undefined },
): Promise<StartedHelper> {
  const logPath = join(folder, helperLogName);
  const args = [`${folder}/`];
  const started = await startDetached({ role: "vm", command: helper, args, logPath, descriptors: [], variables });
  const gone = new AbortController();
  let connected = false;
  void started.exited.then((how) => {
    if (!connected) gone.abort(new DomainError("machine_failed", how));
  });
  try {
    const stop = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal;
    const client = await HelperClient.connect(join(folder, controlSocketName), { deadlineMs, signal: stop });
    connected = true;
    return { process: started, client };
  } catch (error) {
    // The reason is read before the daemon ends the helper itself.
    const reason = messageOf(gone.signal.aborted ? gone.signal.reason : error);
    await endProcess(started.identity, 0);
    signal?.throwIfAborted();
    if (isDomainError(error, "failed_precondition")) throw error;
    const problem = `the helper did not start: ${reason}; its log ends: ${await readLogTail(logPath)}`;
    throw new DomainError("machine_failed", problem, {}, { cause: error });
  }
}
