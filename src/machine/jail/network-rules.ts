/**
 * The network rules: a table of the host's packet filter that drops what processes of machines send to addresses that a
 * sandbox must never reach. The packet guard drops the same packets before; these rules hold when passt is taken over. They
 * match by user, so they touch nothing else on the host, and they stay when the daemon goes, because machines do.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { messageOf } from "../../errors.ts";
import { firstMachineUser, lastMachineUser } from "./machine-users.ts";

/** Not the internet: this network, private, shared, loopback, link-local, protocol, benchmark, multicast. */
const deniedNetworks = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "168.63.129.16/32",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "224.0.0.0/4",
  "240.0.0.0/4",
] as const;

/**
 * Sets the rules; the same rules again change nothing.
 * @returns why there are none; undefined when they hold
 */
export async function raiseNetworkRules(): Promise<string | undefined> {
  try {
    await loadRules(ruleText(await readResolvers()));
    return undefined;
  } catch (error) {
    return `the packet filter takes no rules (${messageOf(error)}). Install it: apt-get install nftables`;
  }
}

/** passt carries questions about names to the host's resolvers, which may be anywhere. */
function ruleText(resolvers: readonly string[]): string {
  const names =
    resolvers.length > 0 ? `ip daddr { ${resolvers.join(", ")} } meta l4proto { tcp, udp } th dport 53 accept` : "";
  return `
table inet firkin
delete table inet firkin
table inet firkin {
  chain machines {
    ${names}
    ip daddr { ${deniedNetworks.join(", ")} } drop
    fib daddr type local drop
    meta nfproto ipv6 drop
  }
  chain output {
    type filter hook output priority filter; policy accept;
    meta skuid ${firstMachineUser}-${lastMachineUser} jump machines
  }
}
`;
}

async function readResolvers(): Promise<string[]> {
  const text = await readFile("/etc/resolv.conf", "utf8").catch(() => "");
  return [...text.matchAll(/^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$/gm)].map((match) => match[1] ?? "");
}

function loadRules(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = execFile("nft", ["-f", "-"], { timeout: 5000 }, (error, _stdout, stderr) => {
      if (error) reject(new Error(stderr.trim().split("\n")[0] || error.message));
      else resolve();
    });
    child.stdin?.on("error", () => {});
    child.stdin?.end(text);
  });
}
