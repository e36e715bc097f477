/** Sandboxes' outgoing network, to a host of this test's own: no other network is needed. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createSandbox, Sandbox, skipReason } from "../support/sdk.ts";

// Documentation addresses (RFC 5737) should be nobody's, but machines in the wild have them: take those this one lacks.
const routes = spawnSync("ip", ["-4", "route"], { encoding: "utf8" }).stdout ?? "";
const network = ["198.51.100", "203.0.113", "192.0.2"].find((prefix) => !routes.includes(`${prefix}.`));
const [hostSide, farSide] = [`${network}.1`, `${network}.2`];
const namespace = `fk${process.pid}`;
const link = `fk${process.pid}a`;

const ip = (...args: string[]) => spawnSync("ip", args, { encoding: "utf8" });
const refusal = skipReason || refusalOfNamespaces();
const title = refusal ? `outgoing network (skipped: ${refusal})` : "outgoing network";

describe.skipIf(refusal)(title, () => {
  let server: ChildProcess;

  beforeAll(async () => {
    const peer = `${namespace}b`;
    const steps = [
      ["netns", "add", namespace],
      ["link", "add", link, "type", "veth", "peer", "name", peer, "netns", namespace],
      ["address", "add", `${hostSide}/30`, "dev", link],
      ["link", "set", link, "up"],
      ["-n", namespace, "address", "add", `${farSide}/30`, "dev", peer],
      ["-n", namespace, "link", "set", peer, "up"],
      ["-n", namespace, "link", "set", "lo", "up"],
    ];
    for (const step of steps) execFileSync("ip", step);
    const script = `
      require("http").createServer((request, reply) => {
        let bytes = 0;
        request.on("data", (chunk) => { bytes += chunk.length; });
        request.on("end", () => reply.end(request.url === "/big" ? Buffer.alloc(4e6, 1) : "far away " + bytes));
      }).listen(8080, "${farSide}", () => console.log("listens"));`;
    server = spawn("ip", ["netns", "exec", namespace, process.execPath, "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await new Promise<void>((resolve, reject) => {
      server.stdout?.once("data", () => resolve());
      server.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
    });
  });
  afterAll(() => {
    server?.kill("SIGKILL");
    ip("link", "delete", link);
    ip("netns", "delete", namespace);
  });

  const url = `http://${farSide}:8080`;

  test("a sandbox that may not reach the internet reaches nothing, after a pause and in its forks too", async () => {
    await using made = await createSandbox({ allowInternetAccess: false });
    const { sandbox } = made;
    const reaches = async (one: typeof sandbox) => {
      const { exitCode } = await one.commands.run(`curl -s -m 3 ${url}/`).catch((error) => error);
      return exitCode === 0;
    };
    expect(await reaches(sandbox)).toBe(false);
    const [fork] = await sandbox.fork({ count: 1 });
    if (!(fork instanceof Sandbox)) throw new Error(`no fork: ${JSON.stringify(fork)}`);
    expect(await reaches(fork)).toBe(false);
    await fork.kill();
    await sandbox.pause();
    await sandbox.connect();
    expect(await reaches(sandbox)).toBe(false);
    expect((await sandbox.commands.run("echo works")).stdout).toBe("works\n");
  });

  test("a sandbox fetches from another host, sends to it, and moves megabytes", async () => {
    await using made = await createSandbox();
    const { commands } = made.sandbox;
    expect((await commands.run(`curl -sf -m 20 ${url}/`)).stdout).toBe("far away 0");
    const sent = "head -c 2000000 /dev/zero | curl -sf -m 60 --data-binary @- ";
    expect((await commands.run(`${sent} ${url}/`)).stdout).toBe("far away 2000000");
    expect((await commands.run(`curl -sf -m 60 ${url}/big | wc -c`)).stdout.trim()).toBe("4000000");
  });

  test("so do several at once, each restored from the same snapshot with the same addresses", async () => {
    const made = await Promise.all(Array.from({ length: 4 }, () => createSandbox()));
    try {
      const fetched = made.map(({ sandbox }) => sandbox.commands.run(`curl -sf -m 30 ${url}/; hostname -I`));
      const outputs = (await Promise.all(fetched)).map(({ stdout }) => stdout.trim());
      expect(outputs).toEqual(Array.from({ length: 4 }, () => expect.stringMatching(/^far away 0\s*10\.0\.2\.15$/)));
    } finally {
      await Promise.all(made.map((each) => each[Symbol.asyncDispose]()));
    }
  });

  test("names are asked of one server, which is not the host's loopback", async () => {
    await using made = await createSandbox();
    const { stdout } = await made.sandbox.commands.run("grep -c ^nameserver /etc/resolv.conf; cat /etc/resolv.conf");
    expect(stdout).toMatch(/^1\n/);
    expect(stdout).toContain("nameserver 10.0.2.3");
  });

  test("raw frames to the host's loopback get nowhere", async () => {
    const heard = { loopback: 0, outside: 0 };
    const loopback = createSocket("udp4", () => heard.loopback++);
    const outside = createSocket("udp4", () => heard.outside++);
    await new Promise<void>((resolve) => loopback.bind(0, "127.0.0.1", resolve));
    const { port } = loopback.address();
    await new Promise<void>((resolve) => outside.bind(port, hostSide, resolve));
    try {
      await using made = await createSandbox();
      // Past every route and check of the guest's kernel: Ethernet frames with such destinations. The last may pass.
      const script = rawDatagrams(["127.0.0.1", "127.1.2.3", "0.0.0.0", hostSide], port);
      const sent = await made.sandbox.commands.run(`python3 -c '${script}'`, { user: "root" });
      expect(sent.stdout).toBe("sent 4\n");
      await expect.poll(() => heard.outside, { timeout: 20_000 }).toBe(1);
      expect(heard.loopback).toBe(0);
    } finally {
      loopback.close();
      outside.close();
    }
  });
});

/** Why this machine gives no network namespaces to tests, or false. */
function refusalOfNamespaces(): string | false {
  if (!network) return "this machine uses every documentation address itself";
  const probe = `${namespace}p`;
  const added = ip("netns", "add", probe);
  if (added.status === 0) ip("netns", "delete", probe);
  return added.status === 0 ? false : `ip netns: ${added.stderr?.trim() || added.error?.message}`;
}

/** A Python program that sends one UDP datagram per address as a frame of its own making. */
function rawDatagrams(addresses: readonly string[], port: number): string {
  return `
import socket, struct
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
device = [name for _, name in socket.if_nameindex() if name != "lo"][0]
out.bind((device, 0))
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
addresses = ${JSON.stringify(addresses)}
for address in addresses:
    payload = struct.pack("!HHHH", 4000, ${port}, 12, 0) + b"evil"
    def head(total): return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, total,
        socket.inet_aton("10.0.2.15"), socket.inet_aton(address))
    out.send(b"\\xff" * 6 + b"\\x52\\x54\\x00\\x00\\x00\\x02" + b"\\x08\\x00" + head(checksum(head(0))) + payload)
print("sent", len(addresses))
`;
}
