/**
 * The adapter that serves a Connect router from Fastify. It replaces connect-fastify's plugin for three reasons: a
 * stream must end when its client leaves while the server waits to write (the plugin waits for ever), failures must
 * reach the daemon's log, and Fastify's headers must get onto the answer.
 */
import type { ServerResponse } from "node:http";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ConnectRouterOptions,
  type ContextValues,
  createConnectRouter,
  createContextKey,
} from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { universalRequestFromNodeRequest } from "@connectrpc/connect-node";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { resetConnection } from "../http/connection-reset.ts";
import { sendError } from "../http/errors.ts";

/** The longest time that a timer can hold (24 days). A longer one counts as none. */
const maxTimeoutMs = 2_147_483_647;

export interface ConnectAdapterOptions extends ConnectRouterOptions {
  readonly routes: (router: ConnectRouter) => void;
  readonly contextValues: (request: FastifyRequest) => ContextValues;
  /** Bounds the bytes of a request that the daemon holds; released once the first message is handled. */
  readonly meter: (request: FastifyRequest, body: AsyncIterable<Uint8Array>) => MeteredBody;
  /** Hears of a failure past the interceptors: the answer cannot be made or written. */
  readonly onError: (request: FastifyRequest, error: unknown) => void;
}

/** An answer that a unary RPC has encoded itself. It takes the place of the message that the RPC returns. */
export interface EncodedAnswer {
  readonly chunks: readonly Uint8Array[];
  readonly byteLength: number;
  /** Called once the answer is sent, or cannot be sent any more. */
  release(): void;
}

/** Set in the context of a unary RPC, in the encoding that its request has. */
export const encodedAnswerKey = createContextKey<EncodedAnswer | undefined>(undefined);

export interface MeteredBody {
  readonly body: AsyncIterable<Uint8Array>;
  release(): void;
}

/**
 * Registers every method of the router on `app`, and takes over the parsing of bodies there: `app` must be
 * encapsulated.
 */
export function registerConnectRoutes(app: FastifyInstance, options: ConnectAdapterOptions): void {
  const router = createConnectRouter({ ...options, grpc: false, grpcWeb: false });
  options.routes(router);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  for (const handle of router.handlers) {
    app.all(handle.requestPath, async (request, reply) => {
      dropUnusableTimeout(request);
      const { raw } = request;
      const values = options.contextValues(request);
      const asked = universalRequestFromNodeRequest(raw, reply.raw, undefined, values);
      const { body, release } = options.meter(request, received(asked.body as AsyncIterable<Uint8Array>));
      try {
        const answer = await handle({ ...asked, body });
        if (answer.status === 415 || answer.status === 405) return await refuse(reply, answer.status);
        reply.hijack();
        await send(encodedAnswerOf(answer, values) ?? answer, reply, release);
      } catch (error) {
        options.onError(request, error);
        reply.hijack();
        resetConnection(raw.socket);
        reply.raw.destroy();
      } finally {
        release();
        values.get(encodedAnswerKey)?.release();
      }
      return reply;
    });
  }
}

/** The answer with the body that the RPC has encoded itself; undefined when it has not, or has failed after that. */
function encodedAnswerOf(answer: UniversalServerResponse, values: ContextValues): UniversalServerResponse | undefined {
  const encoded = values.get(encodedAnswerKey);
  if (!encoded || answer.status !== 200) return undefined;
  const header = new Headers(answer.header);
  header.set("content-length", String(encoded.byteLength));
  // The message in its place may have been compressed.
  header.delete("content-encoding");
  const body = (async function* () {
    yield* encoded.chunks;
  })();
  return { ...answer, header, body };
}

/** The body of a request. It cannot be read to its end when its client has left, which is no failure of the daemon. */
async function* received(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } catch (error) {
    const message = "the client has left in the middle of a message";
    throw new ConnectError(message, Code.Canceled, undefined, undefined, error);
  }
}

function refuse(reply: FastifyReply, status: 405 | 415): FastifyReply {
  const message = status === 415 ? "unsupported content type for this method" : "method not allowed";
  return sendError(reply, status, message);
}

function dropUnusableTimeout(request: FastifyRequest): void {
  const timeout = request.raw.headers["connect-timeout-ms"];
  if (typeof timeout === "string" && /^\d{1,10}$/.test(timeout) && Number(timeout) > maxTimeoutMs) {
    delete request.raw.headers["connect-timeout-ms"];
  }
}

/** Writes the answer with back-pressure, and ends its body as soon as the client is gone. */
async function send(answer: UniversalServerResponse, reply: FastifyReply, onFirstChunk: () => void): Promise<void> {
  const response = reply.raw;
  const body = answer.body?.[Symbol.asyncIterator]();
  try {
    for (const [name, value] of Object.entries(reply.getHeaders())) {
      if (value !== undefined) response.setHeader(name, value);
    }
    answer.header?.forEach((value, name) => {
      response.setHeader(name, value);
    });
    response.writeHead(answer.status);
    for (let chunk = await body?.next(); chunk && !chunk.done; chunk = await body?.next()) {
      onFirstChunk();
      if (response.destroyed) return;
      if (!response.write(chunk.value)) await writable(response);
    }
    response.end();
  } finally {
    await body?.return?.();
  }
}

/** Resolves when the response takes more, or is closed. */
function writable(response: ServerResponse): Promise<void> {
  if (response.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const settle = () => {
      response.off("drain", settle);
      response.off("close", settle);
      resolve();
    };
    response.on("drain", settle);
    response.on("close", settle);
  });
}
