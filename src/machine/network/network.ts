/**
 * The outgoing network of one VM consists of `passt`, which carries the guest's connections as the host's own, and of a
 * packet guard before it, which lets through only packets to the internet and can be switched off. A socket pair joins
 * guard and VM, so there is no socket file to wait for, to protect or to remove. The guard starts passt when it is
 * needed, also after passt has ended, and ends with the VM.
 */
import { readFile, stat, truncate } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../../errors.ts";
import type { Scope } from "../../scope.ts";
import type { MachineRecord, ProcessIdentity } from "../../types.ts";
import { buildTool, exists } from "../build-tool.ts";
import { readLogTail } from "../detached-process.ts";
import type { NetworkHealth } from "../driver.ts";
import { type StoredEngine, storeEngine } from "../jail/engine-store.ts";
import type { Cell, Jail } from "../jail/jail.ts";
import { endProcess, processName, signalProcess } from "../processes.ts";

/** Part of every snapshot's memory, so the same on every host. The DNS address is answered by passt. */
export const guestNetwork = { address: "10.0.2.15", prefix: 24, gateway: "10.0.2.2", dns: "10.0.2.3" } as const;

const { address, prefix, gateway, dns } = guestNetwork;
/** The agent reads its addresses from the kernel's command line. */
export const networkCommandLine = `firkin.net=${address}/${prefix},${gateway},${dns}`;

/** The name under which {@link NetworkPrograms} are stored. */
export const networkEngineName = "network";

/** For a busy host. A switch takes a millisecond on an idle one. */
const switchDeadlineMs = 10_000;
const maxLogBytes = 1 << 20;
/** What passt may have sent that the guard has not read. A socket with less costs nine tenths of the speed. */
const passtSendBytes = 8 << 20;
const resolverPath = "/etc/resolv.conf";

/** The programs of a network, found once per daemon. */
export interface NetworkPrograms {
  readonly engine: StoredEngine;
  readonly passt: string;
  readonly guard: string;
}

export interface NetworkTools extends NetworkPrograms {
  readonly jail: Jail;
}

export interface Network {
  /** The guard, once it runs. */
  readonly guard: Promise<ProcessIdentity>;
  /** Whether it was started to let packets out. */
  readonly isOn: boolean;
  readonly logPath: string;
  /** The end of the socket pair that QEMU inherits. */
  readonly socket: Socket;
  /** Ends the network's processes, when no VM took the network over. */
  close(): Promise<void>;
}

/** @throws DomainError `failed_precondition` saying what to install */
export async function findNetworkPrograms(cacheFolder: string): Promise<NetworkPrograms> {
  const source = { beside: import.meta.url, source: "packet-guard.c" };
  const [passt, guard] = await Promise.all([findPasst(), buildTool(source, cacheFolder)]);
  // Nothing that is saved needs it again, so the cache is the place for it.
  const parts = { name: networkEngineName, version: "1", programs: [passt], files: [guard] };
  return { passt, guard, engine: await storeEngine([join(cacheFolder, "engines")], parts) };
}

/** @throws as {@link findNetworkPrograms} */
export async function findNetworkTools(jail: Jail, cacheFolder: string): Promise<NetworkTools> {
  return { ...(await findNetworkPrograms(cacheFolder)), jail };
}

/**
 * Starts a network, and does not wait until it runs. {@link waitForNetwork} tells when it is ready; frames that are sent
 * earlier wait for it. Its processes append their messages to the file `logPath`, which all networks share.
 */
export async function startNetwork(tools: NetworkTools, cell: Cell, logPath: string, on: boolean): Promise<Network> {
  await boundLog(logPath);
  const first = on ? "on" : "off";
  const args = [first, guestNetwork.address, guestNetwork.dns, tools.passt, ...passtArguments()];
  const { pipes, started } = await tools.jail.spawn({
    role: "network",
    command: tools.guard,
    args,
    logPath,
    descriptors: ["pipe"],
    engine: tools.engine,
    cell,
    writable: [],
    readable: (await exists(resolverPath)) ? [resolverPath] : [],
    devices: [],
    network: "host",
    calls: "network",
    fileBytes: maxLogBytes * 2,
    environment: { PATH: "/usr/bin:/bin", LANG: "C" },
    pairBytes: passtSendBytes,
  });
  const [socket] = pipes;
  if (!socket) throw new DomainError("internal", "a pipe was asked for");
  const guard = started.then(({ identity }) => identity);
  // Whoever waits for the guard is told.
  const running = guard.catch(() => undefined);
  const close = async () => {
    // Without its VM's side the guard ends itself and passt.
    socket.destroy();
    const identity = await running;
    if (identity) await endProcess(identity, 200);
  };
  return { guard, isOn: on, logPath, socket, close };
}

/** Starts a network that ends with `scope` unless a VM takes it over. Its log is in the engine's folder in the cache. */
export async function startNetworkIn(
  scope: Scope,
  tools: NetworkTools,
  cell: Cell,
  cacheFolder: string,
  internetAccess = true,
): Promise<Network> {
  const network = await startNetwork(tools, cell, join(cacheFolder, "network.log"), internetAccess);
  scope.defer(() => network.close());
  return network;
}

/** The guard among the processes of a machine; undefined for a machine that was started without a network. */
export function guardOf({ processes }: Pick<MachineRecord, "processes">): ProcessIdentity | undefined {
  return processes.find(({ role }) => role === "network");
}

/**
 * Waits until a network that was started does as it was asked to.
 * @throws DomainError `machine_failed` with the end of the log when its process did not start, ended or is late
 */
export async function waitForNetwork({ guard, isOn, logPath }: Network): Promise<void> {
  const identity = await guard;
  await untilSwitched(identity, isOn).catch(async (error: Error) => {
    throw new DomainError("machine_failed", `${error.message}; its log ends: ${await readLogTail(logPath)}`);
  });
}

/**
 * The machine's side of a network, which its engine inherits.
 * @throws DomainError as {@link waitForNetwork}, when the network has ended before its machine began
 */
export async function machineSide(network: Network): Promise<Network["socket"]> {
  if (network.socket.destroyed) await waitForNetwork(network);
  return network.socket;
}

async function boundLog(path: string): Promise<void> {
  const size = await stat(path).then(
    (found) => found.size,
    () => 0,
  );
  if (size > maxLogBytes) await truncate(path);
}

/**
 * Switches a VM's network on, or off, which cuts every open connection. Idempotent; in effect when this resolves.
 * @param guard the first network process of the VM's record; undefined for a VM that was started without a network
 * @throws DomainError `machine_failed` when the VM's network ended, `unsupported` when the VM never had one
 */
export async function switchNetwork(guard: ProcessIdentity | undefined, on: boolean): Promise<void> {
  if (!guard) {
    if (!on) return;
    throw new DomainError("unsupported", "this machine was started by an earlier version, without a network");
  }
  const name = processName(guard);
  // The guard of an earlier version has another name and is always on. The signal ends it, which cuts connections too.
  const isOn = name !== undefined && readName(name)?.state !== "off";
  if (name !== undefined && isOn === on) return;
  signalProcess(guard, on ? "SIGUSR1" : "SIGUSR2");
  await untilSwitched(guard, on);
}

/** Looks at the network of a VM. Restarts are those of its passt, modulo 1000. */
export function healthOf(guard: ProcessIdentity): NetworkHealth {
  const name = processName(guard);
  return name === undefined ? { at: "gone" } : { at: "up", restarts: readName(name)?.restarts ?? 0 };
}

/** The guard names its process so that its state can be seen: see `packet-guard.c`. */
function readName(name: string): { readonly state: "on" | "off"; readonly restarts: number } | undefined {
  const [, state, restarts = "0"] = /^network-(on|off)(?: (\d+))?$/.exec(name) ?? [];
  return state === "on" || state === "off" ? { state, restarts: Number(restarts) } : undefined;
}

/** Waits until the guard has the name of the state. A guard that is gone is off for good. */
async function untilSwitched(guard: ProcessIdentity, on: boolean): Promise<void> {
  const end = performance.now() + switchDeadlineMs;
  while (performance.now() < end) {
    const name = processName(guard);
    if (name === undefined && !on) return;
    if (name !== undefined && readName(name)?.state === (on ? "on" : "off")) return;
    if (name === undefined) throw new DomainError("machine_failed", "the network's process ended");
    await delay(1);
  }
  throw new DomainError("machine_failed", `the network is not ${on ? "on" : "off"} after ${switchDeadlineMs} ms`);
}

/**
 * Arguments of passt for a guest with {@link guestNetwork}, its device on descriptor 3. passt forwards DNS to the
 * host's first resolver. The resolver may be on the host's loopback, where passt reaches that one address and only port
 * 53. An option `--dns` with the resolver would turn the forwarding off.
 */
export function passtArguments(): string[] {
  return [
    ["--foreground", "--quiet", "--stderr", "--fd", "3", "--ipv4-only", "--no-map-gw"],
    ["--address", address, "--netmask", String(prefix), "--gateway", gateway, "--dns-forward", dns],
    ["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra", "--tcp-ports", "none", "--udp-ports", "none"],
  ].flat();
}

/**
 * `passt` replaces itself with its AVX2 build where it can. That build is named at once, so that the executable stays.
 */
async function findPasst(): Promise<string> {
  const hasAvx2 = /^flags\s*:.*\bavx2\b/m.test(await readFile("/proc/cpuinfo", "utf8"));
  const candidates = [...(hasAvx2 ? ["/usr/bin/passt.avx2"] : []), "/usr/bin/passt", "/usr/local/bin/passt"];
  for (const path of candidates) {
    if (await exists(path)) return path;
  }
  throw new DomainError("failed_precondition", "passt is not installed. Run: apt-get install passt");
}
