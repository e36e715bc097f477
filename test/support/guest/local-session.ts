/**
 * A local session: a session over the real guest agent as a process of this machine, so the data plane without a
 * machine.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DomainError } from "../../../src/errors.ts";
import { type DataPlane, serveDataPlane, TestSession } from "../daemon/data-plane.ts";
import { startLocalAgent } from "./local-agent.ts";

export interface LocalSandbox extends AsyncDisposable {
  readonly session: TestSession;
  readonly plane: DataPlane;
  /** A folder of this test alone. Nothing else may be touched, because the agent runs as root. */
  readonly folder: string;
  /** The number of descriptors that the agent has open, as one of its processes counts them. */
  openFiles(): Promise<number>;
}

/** Starts an agent, a session over it and a data plane in front. Disposal ends all three and the processes in them. */
export async function startLocalSandbox(sandboxId = "iaalocal"): Promise<LocalSandbox> {
  const local = await startLocalAgent();
  await local.agent.setup({ defaultUser: "root" });
  const session = new TestSession(sandboxId, local.agent);
  const plane = await serveDataPlane([session]);
  const folder = await mkdtemp(join(tmpdir(), "firkin-data-plane-"));
  return {
    session,
    plane,
    folder,
    async openFiles() {
      const args = ["-c", "ls /proc/$PPID/fd | wc -l"];
      const process = await local.agent.exec({ command: "/bin/sh", args, envs: {}, stdin: false });
      let text = "";
      for await (const { bytes } of process.output) text += Buffer.from(bytes);
      return Number(text);
    },
    async [Symbol.asyncDispose]() {
      const running = (await local.agent.listProcesses()).filter(({ end }) => end === undefined);
      // A process that ends in between is not found.
      await Promise.allSettled(running.map(({ pid }) => local.agent.signal(pid, 9)));
      session.kill(new DomainError("not_found", "the test is over"));
      await plane[Symbol.asyncDispose]();
      await local[Symbol.asyncDispose]();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
