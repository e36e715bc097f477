/** Isolation: sandboxes are restored, not booted, differ where they must, and see nothing of each other or the host. */

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, test } from "vitest";
import { createSandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { testedEngine } from "../support/daemon/engine-processes.ts";

const isGvisor = testedEngine === "gvisor";
const powerOff = isGvisor ? "kill -9 1" : "echo o > /proc/sysrq-trigger";

describe.skipIf(skipReason)("isolation", () => {
  test("two sandboxes share a memory that only the template can have made", async () => {
    await using one = await createSandbox();
    await using two = await createSandbox();
    const facts = "cat /run/firkin/template-nonce /proc/sys/kernel/random/boot_id; stat -f -c %T /run/firkin";
    const [first, second] = await Promise.all([one, two].map(({ sandbox }) => sandbox.commands.run(facts)));
    expect(first?.stdout).toMatch(/^[0-9a-f]{32}/);
    expect(first?.stdout).toContain("tmpfs");
    expect(second?.stdout).toBe(first?.stdout);
  });

  test("clock, random numbers and host name are each sandbox's own", async () => {
    await using one = await createSandbox();
    await using two = await createSandbox();
    const run = async (command: string) =>
      (await Promise.all([one, two].map(({ sandbox }) => sandbox.commands.run(command)))).map(({ stdout }) =>
        stdout.trim(),
      );
    const [first, second] = await run("head -c 32 /dev/urandom | od -An -tx1");
    expect(first).not.toBe(second);
    expect(await run("hostname")).toEqual([one.sandbox.sandboxId, two.sandbox.sandboxId]);
    const beforeMs = Date.now();
    for (const seconds of await run("date +%s.%N")) {
      expect(Number(seconds) * 1000).toBeGreaterThan(beforeMs - 10_000);
      expect(Number(seconds) * 1000).toBeLessThan(Date.now() + 10_000);
    }
  });

  test("the files, processes and ports of one sandbox are not in the other", async () => {
    await using one = await createSandbox();
    await using two = await createSandbox();
    await one.sandbox.files.write("/tmp/mine", "1");
    await one.sandbox.commands.run("python3 -m http.server 8123 --bind 0.0.0.0", { background: true });
    const served = () =>
      one.sandbox.commands.run("curl -s -o /dev/null http://127.0.0.1:8123/").then(
        () => true,
        () => false,
      );
    await expect.poll(served).toBe(true);
    expect(await two.sandbox.files.exists("/tmp/mine")).toBe(false);
    const reached = await two.sandbox.commands
      .run("curl -s -m 3 http://127.0.0.1:8123/ || curl -s -m 3 http://$(hostname -I | cut -d' ' -f1):8123/")
      .catch((error) => error);
    expect(reached.exitCode).not.toBe(0);
    expect((await two.sandbox.commands.run("ps aux")).stdout).not.toContain("http.server");
  });

  test("the host's loopback and the daemon cannot be reached from inside", async () => {
    const server = createServer((_, reply) => reply.end("the host"));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      await using made = await createSandbox();
      const { port } = server.address() as AddressInfo;
      const ports = [port, Number(new URL(sharedDaemon().url).port)];
      const gateway = "$(ip route show default | cut -d' ' -f3)";
      for (const host of ["127.0.0.1", gateway, "10.0.2.2", "0.0.0.0", "localhost"]) {
        for (const each of ports) {
          const result = await made.sandbox.commands
            .run(`curl -s -m 2 http://${host}:${each}/`)
            .catch((error) => error);
          expect(result.exitCode, `${host}:${each}`).not.toBe(0);
        }
      }
    } finally {
      server.close();
    }
  });

  test("a guest that exhausts itself harms only itself", async () => {
    await using wild = await createSandbox();
    await using calm = await createSandbox();
    await wild.sandbox.commands.run("sudo sh -c 'for i in $(seq 50); do (yes > /dev/null &) ; done'; true", {
      background: true,
    });
    await wild.sandbox.commands.run("yes > /dev/stdout", { background: true, timeoutMs: 0 });
    expect((await calm.sandbox.commands.run("echo calm")).stdout).toBe("calm\n");
  });

  // In gVisor root may kill process 1, which is the end of its own sandbox.
  test.skipIf(isGvisor)(
    "root in a guest can neither kill the agent nor break the sandbox by writing to the guest link",
    async () => {
      await using made = await createSandbox();
      const { commands } = made.sandbox;
      await commands.run("kill -9 1; kill -TERM 1; for p in /dev/vport*; do echo garbage > $p; done; true", {
        user: "root",
      });
      expect((await commands.run("echo alive")).stdout).toBe("alive\n");
    },
  );

  test("a guest that powers itself off ends its sandbox and nothing else", async () => {
    await using gone = await createSandbox();
    await using other = await createSandbox();
    await gone.sandbox.commands.run(powerOff, { user: "root", background: true }).catch(() => {});
    await expect.poll(() => gone.sandbox.isRunning()).toBe(false);
    expect((await other.sandbox.commands.run("echo still")).stdout).toBe("still\n");
  });
});
