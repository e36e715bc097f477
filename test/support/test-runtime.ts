/** A runtime whose guest the test plays, with room for two sandboxes, and everything that it holds. */
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { pino } from "pino";
import { FrameType } from "../../src/guest/protocol.ts";
import { usage } from "../../src/ledger/capacity.ts";
import { openLedger } from "../../src/ledger/open.ts";
import type { FakeHost } from "../../src/machine/fake.ts";
import type { FakeGuest } from "../../src/machine/fake-guest.ts";
import { reconcile } from "../../src/runtime/restart-reconciliation.ts";
import { type RuntimeDependencies, SandboxRuntime } from "../../src/runtime/sandbox-runtime.ts";
import { duplexPair } from "./duplex-pair.ts";
import { FakeAgent, ok } from "./fake-agent.ts";
import { addFakeTemplate, requestFor, wireFakeRuntime } from "./fake-wiring.ts";
import { ManualClock } from "./manual-clock.ts";

const shape = { vcpuCount: 1, memoryMiB: 64, diskMiB: 64 };

export interface TestRuntime extends AsyncDisposable {
  readonly runtime: SandboxRuntime;
  readonly deps: RuntimeDependencies & { readonly clock: ManualClock };
  readonly host: FakeHost;
  /** Settable: free space on the pretended disk. */
  readonly disk: { freeBytes: number };
  /** Parsed lines of level warn and above. */
  readonly logged: { readonly msg: string }[];
  /** Sandboxes that hold capacity, machines that run, folders of machines, links that are open. */
  held(): Promise<{ reservations: number; machines: number; folders: number; links: number }>;
  create(): ReturnType<SandboxRuntime["createSandbox"]>;
  /** What a daemon that starts now, after this one died, would have. */
  restart(): Promise<SandboxRuntime>;
}

export const nothing = { reservations: 0, machines: 0, folders: 0, links: 0 };

/** Room for two sandboxes. */
export async function openTestRuntime(guest: FakeGuest): Promise<TestRuntime> {
  const folder = await mkdtemp(join(tmpdir(), "firkin-runtime-"));
  const clock = new ManualClock();
  const ledger = openLedger(":memory:", { clock });
  const logged: { msg: string }[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => logged.push(JSON.parse(line)) });
  const disk = { freeBytes: 2 ** 40, totalBytes: 2 ** 40 };
  const budgets = { vcpuCount: 100, memoryMiB: 10_000, diskMiB: 10_000, sandboxes: 2 };
  const floors = { restoreMiB: 1024 };
  const wiring = { folder, ledger, guest, budgets, floors, log, disk: () => disk };
  const { deps, host, machinesFolder } = wireFakeRuntime(clock, wiring);
  await mkdir(machinesFolder);
  await addFakeTemplate(deps, "base", shape);
  const runtime = new SandboxRuntime(deps);
  return {
    runtime,
    deps,
    host,
    disk,
    logged,
    held: async () => ({
      reservations: usage(ledger).active.sandboxes,
      machines: host.machines.size,
      folders: (await readdir(machinesFolder)).length,
      links: host.openLinks,
    }),
    create: () => runtime.createSandbox(requestFor("base", 60_000)),
    restart: async () => {
      const next = new SandboxRuntime(deps);
      await reconcile(deps, next, machinesFolder);
      return next;
    },
    async [Symbol.asyncDispose]() {
      for (const sessionId of [...host.machines.keys()]) host.crash(sessionId);
      await runtime.close();
      ledger.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** A guest that says yes to everything, and what it is asked over its latest link. */
export function agreeableGuest(): { guest: FakeGuest; latest: () => FakeAgent } {
  let latest: FakeAgent | undefined;
  const connect = (): Duplex => {
    const [hostEnd, guestEnd] = duplexPair();
    latest = new FakeAgent(guestEnd);
    void answer(latest);
    return hostEnd;
  };
  return {
    guest: { kind: "scripted", connect },
    latest: () => {
      if (!latest) throw new Error("nobody has connected yet");
      return latest;
    },
  };
}

async function answer(agent: FakeAgent): Promise<void> {
  agent.sendWelcome(await agent.hello());
  for (;;) {
    const { stream } = await agent.next(FrameType.open);
    agent.send(FrameType.result, stream, ok);
  }
}
