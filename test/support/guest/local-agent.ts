/**
 * A local agent: the real guest agent as a process of this machine, over an inherited socket, without a machine around
 * it.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import type { GuestAgent } from "../../../src/guest/agent.ts";
import { connectGuestAgent } from "../../../src/guest/connect.ts";

const source = fileURLToPath(new URL("../../../src/guest-agent", import.meta.url));

export interface LocalAgent extends AsyncDisposable {
  readonly agent: GuestAgent;
  /** The host's end of the socket. */
  readonly stream: Duplex;
}

/**
 * Compiles the changed sources of the agent, for one test file at a time, and gives the path of one of its programs.
 */
export function builtProgram(name: "firkin-agent" | "firkin-frame-check"): string {
  execFileSync("flock", [source, "make", "-C", source, `build/${name}`], { stdio: "pipe" });
  return `${source}/build/${name}`;
}

/** The program and argument that start an agent with login shells that are alike on every machine. */
export function localAgent(): [string, string] {
  return [fileURLToPath(new URL("agent-without-dotfiles.sh", import.meta.url)), builtProgram("firkin-agent")];
}

/** Starts an agent and connects to it. Disposal closes the link, which ends the agent and its processes. */
export async function startLocalAgent(): Promise<LocalAgent> {
  const [program, agent] = localAgent();
  const child = spawn(program, [agent, "--fd", "3"], { stdio: ["ignore", "ignore", "inherit", "pipe"] });
  const stream = child.stdio[3];
  if (!(stream instanceof Duplex)) throw new Error("the agent has no socket");
  try {
    const agent = await connectGuestAgent(stream, { deadlineMs: 60_000 });
    return {
      agent,
      stream,
      async [Symbol.asyncDispose]() {
        agent.close();
        await ended(child);
      },
    };
  } catch (error) {
    await ended(child);
    throw error;
  }
}

/** Waits for the agent to end by itself, now that its socket is closed, but not for long. */
async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const overdue = setTimeout(() => child.kill("SIGKILL"), 5_000);
  await new Promise((resolve) => child.once("exit", resolve));
  clearTimeout(overdue);
}
