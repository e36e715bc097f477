/**
 * The real packet guard: the test plays the guest and sends frames no honest kernel would. An echo stands for passt.
 */
/** The guard for real: the test plays the guest and sends frames no honest kernel would. An echo stands for passt. */
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type StoredEngine, storeEngine } from "../../../src/machine/jail/engine-store.ts";
import { Jail } from "../../../src/machine/jail/jail.ts";
import {
  findNetworkTools,
  guestNetwork,
  healthOf,
  type Network,
  type NetworkTools,
  passtArguments,
  startNetwork,
  switchNetwork,
  waitForNetwork,
} from "../../../src/machine/network/network.ts";
import { isRunning, processName, waitUntilGone } from "../../../src/machine/processes.ts";
import type { ProcessIdentity } from "../../../src/types.ts";
import { killProcess } from "../../support/kill-process.ts";

test("passt forwards no port inwards and offers no gateway to the host", () => {
  const args = passtArguments().join(" ");
  expect(args).toContain("--no-map-gw");
  expect(args).toContain("--tcp-ports none --udp-ports none");
  expect(args).toContain(`--dns-forward ${guestNetwork.dns}`);
});

const missing = existsSync("/usr/bin/passt") ? "" : "passt is not installed";
const far = "93.184.216.34";
const [guestMac, gatewayMac] = [Buffer.from("525400000002", "hex"), Buffer.from("525400000001", "hex")];
const arp = Buffer.concat([gatewayMac, guestMac, Buffer.from([0x08, 0x06]), Buffer.alloc(28)]);

type RunningNetwork = Omit<Network, "guard"> & { readonly guard: ProcessIdentity };

describe.skipIf(missing)(`the packet guard ${missing}`, () => {
  let folder = "";
  let tools: NetworkTools;
  let echoEngine: StoredEngine;
  let network: RunningNetwork;
  const opened: Network[] = [];
  let unparsed: Buffer = Buffer.alloc(0);
  const received: Buffer[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "firkin-network-"));
    const machinesFolder = join(folder, "machines");
    await mkdir(machinesFolder);
    const program = await storeEngine([join(folder, "engines")], {
      name: "program",
      version: "1",
      programs: ["/usr/bin/true"],
      files: [],
    });
    const jail = await Jail.open(
      { cacheFolder: folder, machinesFolder, ownedEntry: "run", log: pino({ level: "silent" }) },
      { engine: program, command: "/usr/bin/true", args: [] },
    );
    tools = await findNetworkTools(jail, folder);
    const echo = join(folder, "echo");
    await writeFile(echo, "#!/bin/sh\nexec cat <&3 >&3\n");
    await chmod(folder, 0o755);
    await chmod(echo, 0o755);
    echoEngine = await storeEngine([join(folder, "engines")], {
      name: "echo",
      version: "1",
      programs: ["/bin/sh", "/bin/cat"],
      files: [tools.guard, echo],
    });
    network = await start({ ...tools, engine: echoEngine, passt: echo });
    network.socket.on("data", collect);
  });
  afterAll(async () => {
    for (const each of opened) await each.close();
    await rm(folder, { recursive: true });
  });

  async function start(using: NetworkTools): Promise<RunningNetwork> {
    const started = await startNetwork(
      using,
      await using.jail.openCell(randomUUID(), { memoryBytes: 256 << 20, processors: 1 }),
      join(folder, "network.log"),
      true,
    );
    opened.push(started);
    await waitForNetwork(started);
    return { ...started, guard: await started.guard };
  }

  /** Parses all frames that came back since the start. */
  function collect(chunk: Buffer): void {
    let rest = Buffer.concat([unparsed, chunk]);
    while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE()) {
      received.push(rest.subarray(4, 4 + rest.readUInt32BE()));
      rest = rest.subarray(4 + rest.readUInt32BE());
    }
    unparsed = rest;
  }

  /** Sends these frames, of which the last one may pass, and returns the frames that came back since the last call. */
  async function echoed(...frames: readonly Buffer[]): Promise<Buffer[]> {
    const last = ipFrame({ payload: `last ${Math.random()}` });
    for (const each of [...frames, last]) network.socket.write(withLength(each));
    await untilReceived((frame) => frame.equals(last));
    return received.splice(0).slice(0, -1);
  }

  async function untilReceived(isWanted: (frame: Buffer) => boolean): Promise<void> {
    while (!received.some(isWanted)) await once(network.socket, "data");
  }

  test("only packets to the internet pass, and questions about names", async () => {
    const own = Object.values(networkInterfaces()).flatMap((found) =>
      (found ?? []).filter(({ family }) => family === "IPv4").map(({ address }) => address),
    );
    const denied = [
      ...["127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.2.2", "10.1.2.3", "100.64.0.1", "100.127.255.255"],
      ...["169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "224.0.0.251", "255.255.255.255"],
      ...[guestNetwork.gateway, guestNetwork.address, ...own],
    ].map((destination) => ipFrame({ destination }));
    const forged = [
      ipFrame({ source: "127.0.0.1" }),
      ipFrame({ source: "10.0.2.16" }),
      ipFrame({ destination: guestNetwork.dns, port: 80 }),
      ipFrame({ destination: guestNetwork.dns, protocol: 1 }),
      ipFrame({ destination: guestNetwork.dns, port: 53, fragment: 1 }),
      ipFrame({ version: 6 }),
      Buffer.concat([gatewayMac, guestMac, Buffer.from([0x86, 0xdd]), Buffer.alloc(60)]),
      Buffer.from("short"),
      Buffer.alloc(0),
    ];
    const allowed = [
      ipFrame({ destination: far }),
      ipFrame({ destination: "100.128.0.1" }),
      ipFrame({ destination: "172.32.0.1" }),
      ipFrame({ destination: guestNetwork.dns, port: 53 }),
      arp,
    ];
    expect(own.length).toBeGreaterThan(0);
    expect(await echoed(...denied, ...forged, ...allowed)).toEqual(allowed);
  });

  test("passt is started by the first frame that may pass, which is not lost", async () => {
    const quiet = await start({ ...tools, engine: echoEngine, passt: join(folder, "echo") });
    const [denied, allowed] = ["192.168.1.1", far].map((destination) => withLength(ipFrame({ destination })));
    quiet.socket.write(denied ?? "");
    // The guard refuses this frame, which shows that it has looked at it.
    quiet.socket.write(withLength(ipFrame({ destination: "10.9.9.9", protocol: 6, port: 80, flags: 0x02 })));
    await once(quiet.socket, "data");
    expect(childrenOf(quiet.guard.pid)).toEqual([]);
    quiet.socket.write(allowed ?? "");
    expect(await once(quiet.socket, "data")).toEqual([allowed]);
    expect(childrenOf(quiet.guard.pid)).toHaveLength(1);
  });

  test("frames may come in any pieces", async () => {
    const frame = withLength(ipFrame({ payload: "in pieces" }));
    for (let at = 0; at < frame.length; at += 7) network.socket.write(frame.subarray(at, at + 7));
    expect(await echoed()).toEqual([frame.subarray(4)]);
  });

  test("TCP to a forbidden address is refused at once", async () => {
    const [syn, data] = [0x02, 0x18].map((flags) => ipFrame({ destination: "10.9.9.9", protocol: 6, port: 80, flags }));
    const answers = await echoed(syn ?? Buffer.alloc(0), data ?? Buffer.alloc(0));
    expect(answers.map(readReset)).toEqual([
      { from: "10.9.9.9:80", flags: 0x14, sequence: 0, acknowledged: 1001 },
      { from: "10.9.9.9:80", flags: 0x04, sequence: 5000, acknowledged: 0 },
    ]);
  });

  test("a network that is switched off passes nothing and cuts connections, and works when switched on", async () => {
    expect(processName(network.guard)).toBe("network-on");
    const before = childrenOf(network.guard.pid);
    expect(before).toHaveLength(1);
    await echoed(ipFrame({ protocol: 6, port: 443, flags: 0x10 }));
    await switchNetwork(network.guard, false);
    await switchNetwork(network.guard, false);
    expect(processName(network.guard)).toBe("network-off");
    // The guest waits for bytes on a connection, and would wait for ever.
    await untilReceived(() => true);
    expect(received.splice(0).map(readReset)).toMatchObject([{ from: `${far}:443`, flags: 0x04, sequence: 5000 }]);
    expect(childrenOf(network.guard.pid)).toEqual([]);
    network.socket.write(withLength(ipFrame({ payload: "lost" })));
    network.socket.write(withLength(ipFrame({ protocol: 6, port: 80, flags: 0x02 })));
    await untilReceived(() => true);
    expect(received.splice(0).map(readReset)).toMatchObject([{ from: `${far}:80`, flags: 0x14 }]);
    await switchNetwork(network.guard, true);
    expect(await echoed()).toEqual([]);
    const after = childrenOf(network.guard.pid);
    expect(after).toHaveLength(1);
    expect(after).not.toEqual(before);
  });

  test("switching under load leaves whole frames", async () => {
    const payload = "x".repeat(1200);
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 200; i++) network.socket.write(withLength(ipFrame({ payload })));
      await switchNetwork(network.guard, round % 2 === 1);
    }
    const passed = await echoed();
    expect(passed.every((frame) => frame.equals(ipFrame({ payload })))).toBe(true);
  });

  test("a frame of impossible length ends this one network, with passt", async () => {
    const real = await start(tools);
    real.socket.write(withLength(arp));
    await expect.poll(() => childrenOf(real.guard.pid)).toHaveLength(1);
    const passt = childrenOf(real.guard.pid);
    real.socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0]));
    expect(await waitUntilGone(real.guard, 60_000)).toBe(true);
    expect(passt.some((pid) => existsSync(`/proc/${pid}`))).toBe(false);
    expect(isRunning(network.guard)).toBe(true);
    await expect(switchNetwork(real.guard, true)).rejects.toMatchObject({ code: "machine_failed" });
    await switchNetwork(real.guard, false);
  });

  test("a passt that ends is replaced for the next frame, and connections that were open are cut", async () => {
    const echo = join(folder, "echo");
    const { guard, socket } = await start({ ...tools, engine: echoEngine, passt: echo });
    const got: Buffer[] = [];
    let rest = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      for (
        ;
        rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE();
        rest = rest.subarray(4 + rest.readUInt32BE())
      ) {
        got.push(rest.subarray(4, 4 + rest.readUInt32BE()));
      }
    });
    // Echoes of frames that were written before come late, so each round has a frame of its own.
    const frameOf = (round: number) => ipFrame({ protocol: 6, port: 443 + round, flags: 0x10 });
    /** Frames that come while passt is away are lost, as in any network. */
    const comesBack = (round: number) =>
      expect
        .poll(
          () => {
            socket.write(withLength(frameOf(round)));
            return got.some((each) => each.equals(frameOf(round)));
          },
          { timeout: 60_000, interval: 300 },
        )
        .toBe(true);
    await comesBack(0);
    expect(healthOf(guard)).toEqual({ at: "up", restarts: 0 });
    for (const restarts of [1, 2]) {
      const [passt] = childrenOf(guard.pid);
      got.length = 0;
      killProcess(passt, "SIGKILL");
      await expect.poll(() => healthOf(guard), { timeout: 60_000 }).toEqual({ at: "up", restarts });
      const answers = () => got.filter((each) => !each.equals(frameOf(restarts - 1)));
      await expect.poll(() => answers().length, { timeout: 60_000 }).toBeGreaterThan(0);
      const from = `${far}:${443 + restarts - 1}`;
      expect(answers().map(readReset)).toContainEqual(expect.objectContaining({ from, flags: 0x04, sequence: 5000 }));
      expect(childrenOf(guard.pid)).toEqual([]);
      await comesBack(restarts);
      expect(childrenOf(guard.pid)).not.toEqual([passt]);
    }
    await switchNetwork(guard, false);
    expect([processName(guard), healthOf(guard)]).toEqual(["network-off 2", { at: "up", restarts: 2 }]);
    await switchNetwork(guard, true);
    await comesBack(3);
    expect(readFileSync(join(folder, "network.log"), "utf8")).toContain("passt ended with signal 9");
  });

  test("a passt that ends at once is started once a second, and takes nobody's time", async () => {
    const broken = join(folder, "broken");
    await writeFile(broken, "#!/bin/sh\nexit 3\n", { mode: 0o755 });
    const engine = await storeEngine([join(folder, "engines")], {
      name: "broken",
      version: "1",
      programs: ["/bin/sh"],
      files: [tools.guard, broken],
    });
    const { guard, socket } = await start({ ...tools, engine, passt: broken });
    const before = performance.now();
    await expect
      .poll(
        () => {
          for (let n = 0; n < 100; n++) socket.write(withLength(ipFrame({})));
          return healthOf(guard);
        },
        { timeout: 60_000, interval: 20 },
      )
      .toEqual({ at: "up", restarts: 3 });
    expect(performance.now() - before).toBeGreaterThan(1_000);
    expect(isRunning(guard)).toBe(true);
  });
});

interface IpFrame {
  readonly source?: string;
  readonly destination?: string;
  readonly protocol?: number;
  readonly port?: number;
  readonly flags?: number;
  readonly fragment?: number;
  readonly version?: number;
  readonly payload?: string;
}

/** A packet from port 4000; TCP with sequence number 1000, acknowledging 5000. */
function ipFrame(options: IpFrame): Buffer {
  const { source = guestNetwork.address, destination = far, protocol = 17, port = 9, flags = 0 } = options;
  const { fragment = 0, version = 4, payload = "" } = options;
  const transport = Buffer.alloc(protocol === 6 ? 20 : 8);
  transport.writeUInt16BE(4000, 0);
  transport.writeUInt16BE(port, 2);
  if (protocol === 6) {
    transport.writeUInt32BE(1000, 4);
    transport.writeUInt32BE(5000, 8);
    transport[12] = 0x50;
    transport[13] = flags;
  }
  const content = Buffer.concat([transport, Buffer.from(payload)]);
  const ip = Buffer.alloc(20);
  ip[0] = version * 16 + 5;
  ip.writeUInt16BE(20 + content.length, 2);
  ip.writeUInt16BE(fragment, 6);
  ip[8] = 64;
  ip[9] = protocol;
  ip.set(bytes(source), 12);
  ip.set(bytes(destination), 16);
  return Buffer.concat([gatewayMac, guestMac, Buffer.from([0x08, 0x00]), ip, content]);
}

function readReset(frame: Buffer) {
  expect(frame.subarray(0, 6)).toEqual(guestMac);
  const [ip, tcp] = [frame.subarray(14, 34), frame.subarray(34, 54)];
  expect([sumOf(ip), [...ip.subarray(16, 20)].join(".")]).toEqual([0xffff, guestNetwork.address]);
  const pseudo = Buffer.concat([ip.subarray(12, 20), Buffer.from([0, 6, 0, 20]), tcp]);
  expect(sumOf(pseudo)).toBe(0xffff);
  expect(tcp.readUInt16BE(2)).toBe(4000);
  return {
    from: `${[...ip.subarray(12, 16)].join(".")}:${tcp.readUInt16BE(0)}`,
    flags: tcp[13],
    sequence: tcp.readUInt32BE(4),
    acknowledged: tcp.readUInt32BE(8),
  };
}

function sumOf(content: Buffer): number {
  let sum = 0;
  for (let at = 0; at < content.length; at += 2) sum += content.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

const bytes = (address: string) => address.split(".").map(Number);

function withLength(content: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(content.length);
  return Buffer.concat([length, content]);
}

function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return text === "" ? [] : text.split(" ").map(Number);
}
