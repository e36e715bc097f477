/**
 * The way in to this folder: a byte stream that leads to a guest agent becomes a {@link GuestAgent}. Whoever opened
 * the byte stream, and which engine runs the guest, is not known here.
 */
import type { Duplex } from "node:stream";
import type { GuestMetrics } from "../types.ts";
import type { GuestAgent, GuestSetup } from "./agent.ts";
import { dialOperation } from "./dial.ts";
import { encodeEnvs } from "./envs.ts";
import { type Fields, FieldWriter } from "./fields.ts";
import { fileOperations } from "./files.ts";
import { FrameLink, type LinkOptions } from "./frame-link.ts";
import { processOperations } from "./processes.ts";
import { Operation, protocolError, Tag } from "./protocol.ts";
import { watchOperation } from "./watch.ts";

/**
 * Greets the agent at the other end of `stream`, which belongs to the agent returned from now on: it is destroyed when
 * the link ends, and when this fails.
 * @throws DomainError `deadline_exceeded` when no agent answers in time, `unsupported` when it speaks another version
 *   of the protocol, `machine_failed` when the stream ends or carries nonsense, the signal's reason (`cancelled`).
 */
export async function connectGuestAgent(stream: Duplex, options: LinkOptions): Promise<GuestAgent> {
  const { link, welcome } = await FrameLink.connect(stream, options);
  return {
    ...welcome,
    closed: link.closed,
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
  // The count tells an empty environment from none.
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
