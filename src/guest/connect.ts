/**
 * Connecting: a byte stream that leads to a guest agent becomes a {@link GuestAgent}. The engine that runs the guest,
 * and the code that opened the byte stream, are not known here.
 */
import type { Duplex } from "node:stream";
import type { GuestMetrics } from "../types.ts";
import type { GuestAgent, GuestSetup } from "./agent.ts";
import { type Fields, FieldWriter } from "./link/fields.ts";
import { FrameLink, type LinkOptions } from "./link/frame-link.ts";
import { Operation, protocolError, Tag } from "./link/protocol.ts";
import { dialOperation } from "./operations/dial.ts";
import { encodeEnvs } from "./operations/envs.ts";
import { fileOperations } from "./operations/files.ts";
import { processOperations } from "./operations/processes.ts";
import { watchOperation } from "./operations/watch.ts";

/**
 * Greets the agent at the other end of `stream`. The byte stream belongs to the returned agent from now on: it is
 * destroyed when the link ends, and when this fails.
 * @throws DomainError `deadline_exceeded` when no agent answers in time, `unsupported` when the agent speaks another
 *   version of the protocol, `machine_failed` when the byte stream ends or breaks the protocol, or the signal's reason
 *   (`cancelled`). The byte stream is destroyed then.
 */
export async function connectGuestAgent(stream: Duplex, options: LinkOptions): Promise<GuestAgent> {
  const { link, welcome } = await FrameLink.connect(stream, options);
  return {
    ...welcome,
    closed: link.closed,
    get receivedBytes() {
      return link.receivedBytes;
    },
    ...processOperations(link),
    ...fileOperations(link),
    watch: watchOperation(link),
    dial: dialOperation(link),
    setup: async (setup) => link.call(Operation.setup, encodeSetup(setup), () => {}),
    metrics: () => link.call(Operation.metrics, new FieldWriter(), decodeMetrics),
    ping: (signal) => link.call(Operation.ping, new FieldWriter(), () => {}, signal),
    sync: () => link.call(Operation.sync, new FieldWriter(), () => {}),
    shutdown: async (deadlineMs) =>
      link.call(Operation.shutdown, new FieldWriter().integer(Tag.deadlineMs, deadlineMs), () => {}),
    close: () => link.close(),
  };
}

function encodeSetup(setup: GuestSetup): FieldWriter {
  const fields = new FieldWriter()
    .integer(Tag.timeNs, setup.timeNs)
    .bytes(Tag.entropy, setup.entropy)
    .string(Tag.hostname, setup.hostname)
    .string(Tag.defaultUser, setup.defaultUser)
    .string(Tag.defaultCwd, setup.defaultCwd);
  // The count tells an empty environment from an absent one.
  if (setup.envs) fields.integer(Tag.count, Object.keys(setup.envs).length).strings(Tag.env, encodeEnvs(setup.envs));
  for (const file of setup.files ?? []) {
    const group = new FieldWriter().string(Tag.path, file.path).bytes(Tag.value, file.content);
    fields.group(Tag.file, group.integer(Tag.mode, file.mode));
  }
  return fields;
}

function decodeMetrics(fields: Fields): GuestMetrics {
  const sizes = new Map(fields.groups(Tag.metric).map((metric) => [metric.string(Tag.name), metric.integer(Tag.size)]));
  const metric = (name: string): number => {
    const size = sizes.get(name);
    if (size === undefined) throw protocolError(`metric ${name} is missing`);
    return size;
  };
  return {
    cpuCount: metric("cpu_count"),
    cpuBusyTicks: metric("cpu_busy_ticks"),
    cpuTotalTicks: metric("cpu_total_ticks"),
    memTotalBytes: metric("mem_total"),
    memUsedBytes: metric("mem_used"),
    memCacheBytes: metric("mem_cache"),
    diskTotalBytes: metric("disk_total"),
    diskUsedBytes: metric("disk_used"),
  };
}
