/**
 * A network of a test's own: every port of it is free, nothing outside can be reached, and its name server is on its
 * loopback. It needs root; `missingForNamespaces` says why a host has none.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface NetworkNamespace extends AsyncDisposable {
  /** The beginning of a command line: what follows runs inside. */
  readonly enter: readonly string[];
}

/** passt needs an interface with a default route, even if the route leads nowhere. */
const interfaces = [
  "ip link set lo up",
  "ip link add nowhere type veth peer name nobody",
  "ip address add 192.0.2.2/24 dev nowhere",
  "ip link set nowhere up",
  "ip link set nobody up",
  "ip route add default via 192.0.2.1",
];

/** Why this host has no network namespaces for tests, or undefined. */
export function missingForNamespaces(): string | undefined {
  const probe = ["-n", "-m", "sh", "-c", "ip link add probe type veth peer name other"];
  const { status, stderr, error } = spawnSync("unshare", probe, { encoding: "utf8" });
  return status === 0 ? undefined : `no network namespaces: ${stderr?.trim() || error?.message}`;
}

/** Opens a namespace. Programs that were started inside must end before its disposal. */
export async function openNetworkNamespace(): Promise<NetworkNamespace> {
  const folder = await mkdtemp(join(tmpdir(), "fkns-"));
  const resolver = join(folder, "resolv.conf");
  await writeFile(resolver, "nameserver 127.0.0.1\noptions timeout:20 attempts:3\n");
  const script = [...interfaces, `mount --bind ${resolver} /etc/resolv.conf`, "echo ready", "exec cat"].join(" && ");
  const holder = spawn("unshare", ["-n", "-m", "sh", "-c", script], { stdio: ["pipe", "pipe", "inherit"] });
  await Promise.race([once(holder.stdout, "data"), failure(holder)]);
  return {
    enter: ["nsenter", "-t", String(holder.pid), "-n", "-m", "--"],
    async [Symbol.asyncDispose]() {
      const gone = once(holder, "exit");
      holder.stdin.end();
      await gone;
      await rm(folder, { recursive: true });
    },
  };
}

async function failure(child: ChildProcess): Promise<never> {
  const [code] = await once(child, "exit");
  throw new Error(`the network namespace could not be set up: exit code ${code}`);
}
