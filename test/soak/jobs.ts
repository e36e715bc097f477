/** The jobs of a soak's clients: each has sandboxes of its own, which are gone when the job is over. */
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { Sandbox } from "e2b";
import { count, startCounter } from "../support/guest/memory-counter.ts";

export interface SoakContext {
  readonly connection: { readonly apiKey: string; readonly apiUrl: string; readonly sandboxUrl: string };
  /** Notes a sandbox that must be gone when the job is over, however it ends. */
  readonly own: (sandboxId: string) => void;
}

/** One job. @throws Error when a request fails or its result is wrong */
export type SoakJob = (context: SoakContext) => Promise<void>;

async function create({ connection, own }: SoakContext, template = "base", timeoutMs = 300_000): Promise<Sandbox> {
  // The SDK waits for capacity as long as the daemon does.
  const sandbox = await Sandbox.create(template, { ...connection, timeoutMs, requestTimeoutMs: 120_000 });
  own(sandbox.sandboxId);
  return sandbox;
}

function same(what: string, actual: unknown, expected: unknown): void {
  if (actual !== expected) throw new Error(`${what} is ${String(actual)} and not ${String(expected)}`);
}

export const jobs = {
  commands: async (context) => {
    const sandbox = await create(context);
    for (const n of [1, 2, 3]) same("output", (await sandbox.commands.run(`echo ${n}`)).stdout, `${n}\n`);
    const failure = await sandbox.commands.run("exit 3").catch((error: { exitCode?: number }) => error);
    same("exit code", failure.exitCode, 3);
    await sandbox.kill();
  },
  files: async (context) => {
    const sandbox = await create(context);
    const text = randomBytes(1 << 20).toString("base64");
    await sandbox.files.write("/home/user/big", text);
    same("file", await sandbox.files.read("/home/user/big"), text);
    await sandbox.files.remove("/home/user/big");
    same("existence", await sandbox.files.exists("/home/user/big"), false);
    await sandbox.kill();
  },
  pause: async (context) => {
    const sandbox = await create(context);
    await startCounter(sandbox);
    for (const n of [1, 2]) {
      same("count before", await count(sandbox), n * 2 - 1);
      await sandbox.pause();
      const again = await Sandbox.connect(sandbox.sandboxId, { ...context.connection, requestTimeoutMs: 120_000 });
      same("count after", await count(again), n * 2);
    }
    await sandbox.kill();
  },
  fork: async (context) => {
    const sandbox = await create(context);
    await startCounter(sandbox);
    const [child] = await sandbox.fork({ count: 1, timeoutMs: 300_000, requestTimeoutMs: 120_000 });
    if (!child || child instanceof Error) throw child ?? new Error("the fork gave no child");
    context.own(child.sandboxId);
    same("child's count", await count(child), 1);
    same("parent's count", await count(sandbox), 1);
    await Promise.all([child.kill(), sandbox.kill()]);
  },
  snapshot: async (context) => {
    const sandbox = await create(context);
    await sandbox.files.write("/home/user/kept", "1");
    const { snapshotId } = await sandbox.createSnapshot();
    await sandbox.kill();
    const child = await create(context, snapshotId);
    same("file", await child.files.read("/home/user/kept"), "1");
    await child.kill();
    same("deletion", await Sandbox.deleteSnapshot(snapshotId, context.connection), true);
  },
  timeOut: async (context) => {
    const sandbox = await create(context, "base", 2_000);
    const end = performance.now() + 60_000;
    while (await sandbox.isRunning()) {
      if (performance.now() > end) throw new Error("the sandbox still runs a minute after its time was up");
      await delay(250);
    }
  },
} as const satisfies Readonly<Record<string, SoakJob>>;
