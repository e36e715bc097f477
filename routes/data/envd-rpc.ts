/** The Connect services of a sandbox's data plane: process.Process and filesystem.Filesystem. */
import { create } from "@bufbuild/protobuf";
import { type ConnectRouter, createContextKey, createContextValues, type HandlerContext } from "@connectrpc/connect";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Clock } from "../../src/clock.ts";
import { type EntryInfo, Filesystem, ListDirResponseSchema } from "../../src/e2b/gen/filesystem/filesystem_pb.ts";
import {
  ConnectResponseSchema,
  ListResponseSchema,
  Process,
  type ProcessInfo,
  StartResponseSchema,
  type StreamInputRequest,
} from "../../src/e2b/gen/process/process_pb.ts";
import * as filesystem from "../../src/envd/filesystem.ts";
import type { StreamOptions } from "../../src/envd/keepalive.ts";
import * as processes from "../../src/envd/processes.ts";
import { WatcherTable } from "../../src/envd/watchers.ts";
import { DomainError } from "../../src/errors.ts";
import type { Logger } from "../../src/log.ts";
import type { RunningProcess } from "../../src/runtime/processes/running-process.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { hasLeft } from "../http/client-leave.ts";
import { registerConnectRoutes } from "./connect-adapter.ts";
import { connectErrors } from "./connect-errors.ts";
import { answerListing, type ListingKind } from "./listing.ts";
import { meterBody } from "./message-budget.ts";

/** The largest message that a client may send. Standard input in JSON is a third larger than its bytes. */
const maxMessageBytes = 32 * 1024 * 1024;
const defaultKeepaliveSeconds = 90;

const entryListing: ListingKind<typeof ListDirResponseSchema, EntryInfo> = {
  schema: ListDirResponseSchema,
  field: "entries",
  sizeOf: ({ path, name, symlinkTarget, metadata }) =>
    path.length + name.length + (symlinkTarget?.length ?? 0) + textLength(metadata),
  advice: "list a smaller depth, or its folders one by one",
};
const processListing: ListingKind<typeof ListResponseSchema, ProcessInfo> = {
  schema: ListResponseSchema,
  field: "processes",
  sizeOf: ({ config }) =>
    (config?.args ?? []).reduce((sum, { length }) => sum + length, 0) + textLength(config?.envs ?? {}),
  advice: "processes with smaller environments and arguments can be listed",
};

function textLength(texts: Readonly<Record<string, string>>): number {
  return Object.entries(texts).reduce((sum, [name, text]) => sum + name.length + text.length, 0);
}

interface Caller {
  readonly session: Session;
  /** The user of Basic authentication; undefined: the sandbox's default user. */
  readonly user: string | undefined;
}

const callerKey = createContextKey<Caller | undefined>(undefined);

export interface EnvdRpcDeps {
  readonly clock: Clock;
  readonly log: Logger;
  /** The session of a request. Its token is checked already. */
  readonly sessionOf: (request: FastifyRequest) => Session;
}

export async function envdRpc(app: FastifyInstance, deps: EnvdRpcDeps): Promise<void> {
  registerConnectRoutes(app, {
    readMaxBytes: maxMessageBytes,
    interceptors: [connectErrors((context) => context.get(callerKey)?.session.log ?? deps.log)],
    contextValues: (request) =>
      createContextValues().set(callerKey, {
        session: deps.sessionOf(request),
        user: basicUser(request.headers.authorization),
      }),
    meter: (request, body) => meterBody(body, deps.sessionOf(request), maxMessageBytes),
    onError: (request, error) => {
      const level = hasLeft(request) ? "debug" : "warn";
      deps.log[level]({ err: error, url: request.url }, "the answer of an RPC cannot be sent");
    },
    routes: (router) => {
      registerProcess(router, deps.clock);
      registerFilesystem(router, deps.clock);
    },
  });
}

function registerProcess(router: ConnectRouter, clock: Clock): void {
  router.service(Process, {
    async *start(request, context) {
      const { session, user } = callerOf(context);
      const options = { ...streamOptions(context, clock), timeoutMs: context.timeoutMs() };
      for await (const event of processes.startProcess(session, request, user, options)) {
        yield create(StartResponseSchema, { event });
      }
    },
    async *connect({ process }, context) {
      const { session } = callerOf(context);
      for await (const event of processes.connectProcess(session, process, streamOptions(context, clock))) {
        yield create(ConnectResponseSchema, { event });
      }
    },
    async list(_request, context) {
      const { session } = callerOf(context);
      await answerListing(context, session, processListing, await processes.listProcesses(session));
      return {};
    },
    async update({ process, pty }, context) {
      await processes.updateProcess(callerOf(context).session, process, pty);
      return {};
    },
    async sendInput({ process, input }, context) {
      await processes.sendInput(callerOf(context).session, process, input);
      return {};
    },
    async streamInput(requests, context) {
      await streamInput(callerOf(context).session, requests);
      return {};
    },
    async sendSignal({ process, signal }, context) {
      await processes.sendSignal(callerOf(context).session, process, signal);
      return {};
    },
    async closeStdin({ process }, context) {
      await processes.closeStdin(callerOf(context).session, process);
      return {};
    },
  });
}

function registerFilesystem(router: ConnectRouter, clock: Clock): void {
  const watchers = new WatcherTable();
  router.service(Filesystem, {
    async stat({ path }, context) {
      const { session, user } = callerOf(context);
      return { entry: await filesystem.stat(session, path, user) };
    },
    async makeDir({ path }, context) {
      const { session, user } = callerOf(context);
      return { entry: await filesystem.makeDirectory(session, path, user) };
    },
    async move({ source, destination }, context) {
      const { session, user } = callerOf(context);
      return { entry: await filesystem.move(session, source, destination, user) };
    },
    async listDir({ path, depth }, context) {
      const { session, user } = callerOf(context);
      await answerListing(context, session, entryListing, filesystem.listDirectory(session, path, depth, user));
      return {};
    },
    async remove({ path }, context) {
      const { session, user } = callerOf(context);
      await filesystem.remove(session, path, user);
      return {};
    },
    async *watchDir(request, context) {
      const { session, user } = callerOf(context);
      yield* filesystem.watchDirectoryStream(session, request, user, streamOptions(context, clock));
    },
    async createWatcher(request, context) {
      const { session, user } = callerOf(context);
      const watch = await filesystem.watchDirectory(session, request, user);
      return { watcherId: watchers.add(session, watch) };
    },
    async getWatcherEvents({ watcherId }, context) {
      const events = await watchers.poll(callerOf(context).session, watcherId);
      return { events: events.map(filesystem.toFilesystemEvent) };
    },
    async removeWatcher({ watcherId }, context) {
      watchers.remove(callerOf(context).session, watcherId);
      return {};
    },
  });
}

/** The input of one process as a stream: `start` selects the process, `data` follows. */
async function streamInput(session: Session, requests: AsyncIterable<StreamInputRequest>): Promise<void> {
  let process: RunningProcess | undefined;
  for await (const { event } of requests) {
    if (event.case === "start") process = await processes.findLiveProcess(session, event.value.process);
    if (event.case !== "data") continue;
    if (!process) throw new DomainError("invalid_argument", "the first message must select a process");
    await processes.writeInput(process, event.value.input);
  }
}

function callerOf(context: HandlerContext): Caller {
  const caller = context.values.get(callerKey);
  if (!caller) throw new DomainError("internal", "a request reached an RPC without a session");
  return caller;
}

function streamOptions(context: HandlerContext, clock: Clock): StreamOptions {
  const seconds = Number(context.requestHeader.get("keepalive-ping-interval") ?? "");
  const usable = Number.isInteger(seconds) && seconds > 0 && seconds <= 86_400;
  return { clock, signal: context.signal, keepaliveMs: (usable ? seconds : defaultKeepaliveSeconds) * 1000 };
}

/** The user name in `Authorization: Basic …`. The password and other schemes are ignored. */
function basicUser(authorization: string | undefined): string | undefined {
  const credentials = /^basic\s+([a-z0-9+/=_-]+)\s*$/i.exec(authorization ?? "")?.[1];
  if (credentials === undefined) return undefined;
  return Buffer.from(credentials, "base64").toString("utf8").split(":", 1)[0] || undefined;
}
