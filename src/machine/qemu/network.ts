/**
 * The outgoing network of one VM: `passt` carries the guest's connections as the host's own, a packet guard before it
 * keeps them off the host's loopback. The three processes are joined by socket pairs, so there is no socket file to
 * wait for, to protect or to remove, and when one of them ends the others do too.
 */
import { readFile } from "node:fs/promises";
import { isIPv4, type Socket } from "node:net";
import { DomainError } from "../../errors.ts";
import type { ProcessIdentity } from "../../types.ts";
import { endProcess } from "../processes.ts";
import { startDetached } from "./process.ts";
import { buildTool, exists } from "./tools.ts";

/** Part of every snapshot's memory, so the same on every host. The DNS address is answered by passt. */
export const guestNetwork = { address: "10.0.2.15", prefix: 24, gateway: "10.0.2.2", dns: "10.0.2.3" } as const;

/** What the agent reads from the kernel's command line. */
export const networkCommandLine = `firkin.net=${guestNetwork.address}/${guestNetwork.prefix},${guestNetwork.gateway},${guestNetwork.dns}`;

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

/** Starts guard and passt, both at once. What they have to say is appended to the file `logPath`, which all share. */
export async function startNetwork(tools: NetworkTools, logPath: string): Promise<Network> {
  const guard = await startDetached({
    role: "network",
    command: tools.guard,
    args: [],
    logPath,
    descriptors: ["pipe", "pipe"],
  });
  const [socket, passtSide] = guard.pipes;
  if (!socket || !passtSide) throw new DomainError("internal", "two pipes were asked for");
  try {
    const passt = await startDetached({
      role: "network",
      command: tools.passt,
      args: passtArguments(await firstResolver()),
      logPath,
      descriptors: [passtSide],
    });
    const processes = [guard.identity, passt.identity];
    const close = async () => {
      socket.destroy();
      await Promise.all(processes.map((process) => endProcess(process, 200)));
    };
    return { processes, socket, close };
  } catch (error) {
    socket.destroy();
    await endProcess(guard.identity, 0);
    throw error;
  } finally {
    passtSide.destroy();
  }
}

/**
 * Arguments of passt for a guest with {@link guestNetwork}, its device on descriptor 3. `resolver` is the host's DNS
 * server; it may be on the host's loopback, because passt then forwards to it alone, and only port 53.
 */
export function passtArguments(resolver: string | undefined): string[] {
  const { address, prefix, gateway, dns } = guestNetwork;
  return [
    ...["--foreground", "--quiet", "--stderr", "--fd", "3", "--ipv4-only", "--no-map-gw"],
    ...["--address", address, "--netmask", String(prefix), "--gateway", gateway],
    ...["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra", "--tcp-ports", "none", "--udp-ports", "none"],
    ...(resolver ? ["--dns", resolver, "--dns-forward", dns] : ["--dns", "none"]),
  ];
}

/** The first IPv4 name server of a `resolv.conf`. */
export function parseResolver(text: string): string | undefined {
  const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((match) => match[1] ?? "");
  return servers.find((server) => isIPv4(server));
}

/** Read for every VM: a laptop's resolver changes with its network. */
async function firstResolver(): Promise<string | undefined> {
  try {
    return parseResolver(await readFile("/etc/resolv.conf", "utf8"));
  } catch {
    return undefined;
  }
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
