/** The guard and passt for real: the test plays the guest and sends frames no honest kernel would. */
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isRunning, waitUntilGone } from "../../../src/machine/processes.ts";
import {
  findNetworkTools,
  guestNetwork,
  type Network,
  passtArguments,
  startNetwork,
} from "../../../src/machine/qemu/network.ts";

test("passt forwards no port inwards and offers no gateway to the host", () => {
  const args = passtArguments().join(" ");
  expect(args).toContain("--no-map-gw");
  expect(args).toContain("--tcp-ports none --udp-ports none");
  expect(args).toContain(`--dns-forward ${guestNetwork.dns}`);
});

const outside = Object.values(networkInterfaces())
  .flatMap((addresses) => addresses ?? [])
  .find((address) => address.family === "IPv4" && !address.internal)?.address;
const missing = !existsSync("/usr/bin/passt") ? "passt is not installed" : outside ? "" : "the host has no network";

let folder = "";
let network: Network;
let receiver: UdpSocket;
const received: string[] = [];

beforeAll(async () => {
  if (missing) return;
  folder = await mkdtemp(join(tmpdir(), "firkin-network-"));
  network = await startNetwork(await findNetworkTools(folder), join(folder, "network.log"));
  receiver = createSocket("udp4");
  receiver.on("message", (message) => received.push(message.toString()));
  receiver.bind(0, "0.0.0.0");
  await once(receiver, "listening");
});
afterAll(async () => {
  if (missing) return;
  receiver.close();
  await network.close();
  await rm(folder, { recursive: true });
});

function frame(destination: string, message: string, source: string = guestNetwork.address): Buffer {
  const data = Buffer.from(message);
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(40_000 + received.length, 0);
  udp.writeUInt16BE((receiver.address() as AddressInfo).port, 2);
  udp.writeUInt16BE(8 + data.length, 4);
  const ip = Buffer.from([
    0x45,
    0,
    0,
    28 + data.length,
    0,
    1,
    0,
    0,
    64,
    17,
    0,
    0,
    ...bytes(source),
    ...bytes(destination),
  ]);
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += ip.readUInt16BE(at);
  ip.writeUInt16BE(~((sum & 0xffff) + (sum >> 16)) & 0xffff, 10);
  const ethernet = Buffer.from([0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x08, 0x00]);
  return withLength(Buffer.concat([ethernet, ip, udp, data]));
}

const bytes = (address: string) => address.split(".").map(Number);

function withLength(content: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(content.length);
  return Buffer.concat([length, content]);
}

async function arrival(message: string): Promise<void> {
  while (!received.includes(message)) await once(receiver, "message");
}

test.skipIf(missing)(`frames to the host's loopback are dropped, others pass ${missing}`, async () => {
  const forbidden = ["127.0.0.1", "127.0.0.53", "127.255.255.254", "0.0.0.0", "0.1.2.3"];
  for (const destination of forbidden) network.socket.write(frame(destination, `to ${destination}`));
  network.socket.write(frame(outside ?? "", "from the loopback", "127.0.0.1"));
  network.socket.write(withLength(Buffer.from("short")));
  network.socket.write(withLength(Buffer.alloc(0)));
  // Frames come in order, so once this one is there, those before it were judged.
  const last = frame(outside ?? "", "hello");
  for (let at = 0; at < last.length; at += 7) network.socket.write(last.subarray(at, at + 7));
  await arrival("hello");
  expect(received).toEqual(["hello"]);
});

test.skipIf(missing)(`a frame of impossible length ends this one network ${missing}`, async () => {
  expect(network.processes.map(isRunning)).toEqual([true, true]);
  network.socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0]));
  for (const process of network.processes) expect(await waitUntilGone(process, 5000)).toBe(true);
});
