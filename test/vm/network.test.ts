/** The outgoing network of sandboxes, to a host of this test's own, so that no other network is needed. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { ALL_TRAFFIC } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { MachineRecord } from "../../src/types.ts";
import { api, createSandbox, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { killProcess } from "../support/kill-process.ts";
import { titleOf } from "../support/skipped-title.ts";

// Documentation addresses (RFC 5737) should belong to nobody, but some hosts use them. This takes a range that is free.
const routes = spawnSync("ip", ["-4", "route"], { encoding: "utf8" }).stdout ?? "";
const network = ["198.51.100", "203.0.113", "192.0.2"].find((prefix) => !routes.includes(`${prefix}.`));
const [hostSide, farSide] = [`${network}.1`, `${network}.2`];
const namespace = `fk${process.pid}`;
const link = `fk${process.pid}a`;

const ip = (...args: string[]) => spawnSync("ip", args, { encoding: "utf8" });
const refusal = skipReason || refusalOfNamespaces();

describe.skipIf(refusal)(titleOf("outgoing network", refusal), () => {
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
        request.on("end", () => {
          if (request.url === "/slow") setInterval(() => reply.write("tick\\n"), 100);
          else reply.end(request.url === "/big" ? Buffer.alloc(4e6, 1) : "far away " + bytes);
        });
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
    expect((await commands.run(`curl -sf -m 50 ${url}/`)).stdout).toBe("far away 0");
    const sent = "head -c 2000000 /dev/zero | curl -sf -m 50 --data-binary @- ";
    expect((await commands.run(`${sent} ${url}/`)).stdout).toBe("far away 2000000");
    expect((await commands.run(`curl -sf -m 50 ${url}/big | wc -c`)).stdout.trim()).toBe("4000000");
  });

  test("several sandboxes fetch at once, each restored from the same snapshot with the same addresses", async () => {
    const made = await Promise.all(Array.from({ length: 4 }, () => createSandbox()));
    try {
      const fetched = made.map(({ sandbox }) => sandbox.commands.run(`curl -sf -m 50 ${url}/; hostname -I`));
      const outputs = (await Promise.all(fetched)).map(({ stdout }) => stdout.trim());
      expect(outputs).toEqual(Array.from({ length: 4 }, () => expect.stringMatching(/^far away 0\s*10\.0\.2\.15$/)));
    } finally {
      await Promise.all(made.map((each) => each[Symbol.asyncDispose]()));
    }
  });

  test("a sandbox asks one name server, which is not the host's loopback", async () => {
    await using made = await createSandbox();
    const { stdout } = await made.sandbox.commands.run("grep -c ^nameserver /etc/resolv.conf; cat /etc/resolv.conf");
    expect(stdout).toMatch(/^1\n/);
    expect(stdout).toContain("nameserver 10.0.2.3");
  });

  test("neither the host nor a private network answers under any address", async () => {
    const listener = createServer((_, response) => response.end("the host")).listen(0, "0.0.0.0");
    await once(listener, "listening");
    const { port } = listener.address() as AddressInfo;
    const daemonPort = new URL(sharedDaemon().url).port;
    const own = Object.values(networkInterfaces()).flatMap((found) =>
      (found ?? []).filter(({ family }) => family === "IPv4").map(({ address }) => address),
    );
    expect(own).toContain(hostSide);
    try {
      // The server answers from here, so a sandbox that gets no answer cannot reach it.
      expect(await (await fetch(`http://${hostSide}:${port}/`)).text()).toBe("the host");
      await using made = await createSandbox();
      await using other = await createSandbox();
      await other.sandbox.commands.run("python3 -m http.server 8000", { background: true });
      const targets = [
        ...own.flatMap((address) => [`${address}:${port}`, `${address}:${daemonPort}`]),
        ...["10.0.2.2", "10.0.2.3"].flatMap((address) => [`${address}:${port}`, `${address}:${daemonPort}`]),
        ...["10.1.2.3:80", "100.64.0.1:80", "169.254.169.254:80", "172.17.0.1:80", "192.168.1.1:80", "0.0.0.0:80"],
        // Every sandbox has this address and sees only itself at it.
        "10.0.2.15:8000",
      ];
      const tries = targets.map((target) => `curl -s -m 30 http://${target}/ >/dev/null; echo ${target} $?`);
      const { stdout } = await made.sandbox.commands.run(tries.join("; "), { timeoutMs: 120_000 });
      // curl's status 7: refused at once, so that a sandbox cannot tell whether there is anything.
      expect(stdout.trim().split("\n")).toEqual(targets.map((target) => `${target} 7`));
      expect((await made.sandbox.commands.run(`curl -sf -m 50 ${url}/`)).stdout).toBe("far away 0");
    } finally {
      listener.close();
    }
  });

  test("raw frames to the host get nowhere", async () => {
    let heard = 0;
    const socket = createSocket("udp4", () => heard++);
    await new Promise<void>((resolve) => socket.bind(0, "0.0.0.0", resolve));
    try {
      await using made = await createSandbox();
      // Ethernet frames with such destinations, past every route and check of the guest's kernel.
      const script = rawDatagrams(["127.0.0.1", "127.1.2.3", "0.0.0.0", hostSide], socket.address().port);
      const sent = await made.sandbox.commands.run(`python3 -c '${script}'`, { user: "root" });
      expect(sent.stdout).toBe("sent 4\n");
      // Frames keep their order, so once another host has answered, the frames before were judged.
      expect((await made.sandbox.commands.run(`curl -sf -m 50 ${url}/`)).stdout).toBe("far away 0");
      expect(heard).toBe(0);
    } finally {
      socket.close();
    }
  });

  test("a passt that dies is replaced for the next connection, and the sandbox's log says so", async () => {
    await using made = await createSandbox();
    const { sandbox } = made;
    const fetched = async () => (await sandbox.commands.run(`curl -sf -m 50 ${url}/`)).stdout;
    expect(await fetched()).toBe("far away 0");
    let open = "";
    const onStdout = (text: string) => {
      open += text;
    };
    const slow = `curl -sfN -m 600 ${url}/slow`;
    const download = await sandbox.commands.run(slow, { background: true, timeoutMs: 0, onStdout });
    await expect.poll(() => open).toContain("tick");
    killProcess(passtOf(sandbox.sandboxId), "SIGKILL");
    // The connection that was open is cut, and does not hang.
    expect((await download.wait().catch((error) => error)).exitCode).not.toBe(0);
    expect(await fetched()).toBe("far away 0");
    const logged = async () => {
      const { logs } = (await (await api(`/v2/sandboxes/${sandbox.sandboxId}/logs`)).json()) as {
        logs: { message: string }[];
      };
      return logs.filter(({ message }) => message.startsWith("The sandbox's network broke")).length;
    };
    await expect.poll(logged, { timeout: 60_000 }).toBe(1);
  });

  test("a network that is switched off cuts open connections, and stays off until it is switched on", async () => {
    await using made = await createSandbox({ lifecycle: { onTimeout: "pause" } });
    const { sandbox } = made;
    const reaches = async () => {
      const { exitCode } = await sandbox.commands.run(`curl -sf -m 50 ${url}/`).catch((error) => error);
      return exitCode === 0;
    };
    let open = "";
    const download = await sandbox.commands.run(`curl -sfN -m 600 ${url}/slow`, {
      background: true,
      timeoutMs: 0,
      onStdout: (text) => {
        open += text;
      },
    });
    await expect.poll(() => open).toContain("tick");

    await sandbox.updateNetwork({ denyOut: [ALL_TRAFFIC] });
    expect((await download.wait().catch((error) => error)).exitCode).not.toBe(0);
    expect(await reaches()).toBe(false);
    expect(await (await api(`/sandboxes/${sandbox.sandboxId}`)).json()).toMatchObject({ allowInternetAccess: false });
    await sandbox.pause();
    await sandbox.connect();
    expect(await reaches()).toBe(false);
    const cut = await sandbox.commands.run("curl -s -m 30 http://10.0.2.3:53/; echo $?");
    expect(cut.stdout).toBe("7\n");

    await sandbox.updateNetwork({});
    expect(await reaches()).toBe(true);
    await sandbox.pause();
    await sandbox.connect();
    expect(await reaches()).toBe(true);
    await expect(sandbox.updateNetwork({ allowOut: ["1.1.1.1"] })).rejects.toThrow("network.allowOut");
    expect(await reaches()).toBe(true);
  });
});

/** The passt of a sandbox, which is the child of its packet guard. */
function passtOf(sandboxId: string): number {
  const ledger = new Database(join(sharedDaemon().stateDir, "ledger.db"), { readonly: true });
  try {
    const machine = ledger.prepare("select machine from sandboxes where id = ?").pluck().get(sandboxId) as string;
    const { processes } = JSON.parse(machine) as MachineRecord;
    const { pid } = processes.find(({ role }) => role === "network") ?? { pid: 0 };
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim());
  } finally {
    ledger.close();
  }
}

/** Why this host gives no network namespaces to tests, or false. */
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
    packet = head(checksum(head(0))) + payload
    # gVisor lets its guest send packets, and no frames of its making.
    try: out.send(b"\\xff" * 6 + b"\\x52\\x54\\x00\\x00\\x00\\x02" + b"\\x08\\x00" + packet)
    except OSError: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).sendto(packet, (address, 0))
print("sent", len(addresses))
`;
}
