/**
 * The outgoing network of one VM: `passt` carries the guest's connections as the host's own, a packet guard before it
 * keeps them off the host's loopback. The three processes are joined by socket pairs, so there is no socket file to
 * wait for, to protect or to remove, and when one of them ends the others do too.
 */
import { readFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../../errors.ts";
import { Scope } from "../../scope.ts";
import type { ProcessIdentity } from "../../types.ts";
import { endProcess, identifyProcess } from "../processes.ts";
import { type DetachedProcess, startDetached } from "./process.ts";
import { buildTool, exists } from "./tools.ts";

/** Part of every snapshot's memory, so the same on every host. The DNS address is answered by passt. */
export const guestNetwork = { address: "10.0.2.15", prefix: 24, gateway: "10.0.2.2", dns: "10.0.2.3" } as const;

/** What the agent reads from the kernel's command line. */
export const networkCommandLine = `firkin.net=${guestNetwork.address}/${guestNetwork.prefix},${guestNetwork.gateway},${guestNetwork.dns}`;

const becomeDeadlineMs = 2000;

/** Programs and settings, found once per daemon. */
export interface NetworkTools {
  readonly passt: string;
  readonly guard: string;
}

export interface Network {
  readonly processes: readonly ProcessIdentity[];
  /** The end that QEMU inherits. */
  readonly socket: Socket;
  /** Ends what was started; for when no VM took it. */
  close(): Promise<void>;
}

/** @throws DomainError `failed_precondition` saying what to install */
export async function findNetworkTools(cacheFolder: string): Promise<NetworkTools> {
  const [passt, guard] = await Promise.all([findPasst(), buildTool("packet-guard", cacheFolder)]);
  return { passt, guard };
}

/** Starts passt and guard, both at once. What they have to say is appended to the file `logPath`, which all share. */
export async function startNetwork(tools: NetworkTools, logPath: string): Promise<Network> {
  const common = { role: "network", command: tools.guard, logPath } as const;
  await using scope = new Scope();
  // passt gets the end that was made for a child: our end does not block, and passt loses half frames on such a socket.
  const passt = await startDetached({ ...common, args: [tools.passt, ...passtArguments()], descriptors: ["pipe"] });
  const [passtSide] = passt.pipes;
  if (!passtSide) throw new DomainError("internal", "a pipe was asked for");
  try {
    const guard = await startDetached({ ...common, args: [], descriptors: ["pipe", passtSide] });
    const [socket] = guard.pipes;
    if (!socket) throw new DomainError("internal", "a pipe was asked for");
    // Without its VM's side the guard ends, and without the guard passt does.
    scope.defer(() => void socket.destroy());
    const processes = [guard.identity, await identifyPasst(passt, tools)];
    const close = async () => {
      socket.destroy();
      await Promise.all(processes.map((process) => endProcess(process, 200)));
    };
    scope.release();
    return { processes, socket, close };
  } finally {
    passtSide.destroy();
  }
}

/** The guard's program turns into passt within a millisecond or two: that is what must be found again later. */
async function identifyPasst(passt: DetachedProcess, tools: NetworkTools): Promise<ProcessIdentity> {
  const end = performance.now() + becomeDeadlineMs;
  while (performance.now() < end) {
    const identity = identifyProcess("network", passt.identity.pid);
    if (!identity) throw new DomainError("machine_failed", `passt did not start: ${await passt.exited}`);
    if (identity.executable !== tools.guard) return identity;
    await delay(1);
  }
  throw new DomainError("machine_failed", `${tools.passt} did not start within ${becomeDeadlineMs} ms`);
}

/**
 * Arguments of passt for a guest with {@link guestNetwork}, its device on descriptor 3. It forwards DNS to the host's
 * first resolver, which may be on the host's loopback: passt reaches that one address there, and only port 53. Naming
 * the resolver with `--dns` would turn the forwarding off.
 */
export function passtArguments(): string[] {
  const { address, prefix, gateway, dns } = guestNetwork;
  return [
    ...["--foreground", "--quiet", "--stderr", "--fd", "3", "--ipv4-only", "--no-map-gw"],
    ...["--address", address, "--netmask", String(prefix), "--gateway", gateway, "--dns-forward", dns],
    ...["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra", "--tcp-ports", "none", "--udp-ports", "none"],
  ];
}

/** `passt` replaces itself with its AVX2 build where it can: naming that at once keeps the executable what it was. */
async function findPasst(): Promise<string> {
  const hasAvx2 = /^flags\s*:.*\bavx2\b/m.test(await readFile("/proc/cpuinfo", "utf8"));
  const candidates = [...(hasAvx2 ? ["/usr/bin/passt.avx2"] : []), "/usr/bin/passt", "/usr/local/bin/passt"];
  for (const path of candidates) {
    if (await exists(path)) return path;
  }
  throw new DomainError("failed_precondition", "passt is not installed. Run: apt-get install passt");
}
