/** Tests of `--connect`: an agent that connects to a socket, and again after the end of a connection. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import { buildSanitized, sanitizedFolder } from "../support/guest/built-agent.ts";

beforeAll(buildSanitized);

test("the agent comes back to the socket, with its processes", async () => {
  const folder = mkdtempSync(join(tmpdir(), "firkin-connect-"));
  const path = join(folder, "agent.sock");
  const program = spawn(`${sanitizedFolder}firkin-agent`, ["--connect", path], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const exited = new Promise((resolve) => program.once("exit", resolve));
  const server = net.createServer();
  try {
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const next = async () => {
      const socket = await new Promise<net.Socket>((resolve) => server.once("connection", resolve));
      return connectGuestAgent(socket, { deadlineMs: 60_000 });
    };
    const first = await next();
    const spec = { command: "sleep", args: ["1000"], envs: {}, user: "root", cwd: "/", stdin: false };
    const { pid } = await first.exec(spec);
    const again = next();
    first.close();
    const second = await again;
    expect((await second.listProcesses()).map((process) => process.pid)).toEqual([pid]);
    await second.signal(pid, 9);
    await second.shutdown(1_000);
    expect(await exited).toBe(0);
  } finally {
    program.kill("SIGKILL");
    await exited;
    server.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
