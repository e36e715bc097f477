/**
 * The routes of a sandbox's life: each parses the request, makes one call to the runtime and shapes the answer
 * (docs/compatibility.md#lifecycle). `routes/control` is the control plane. It calls the runtime, the templates, the team,
 * `src/e2b` and `routes/http`; of `routes/data` it uses the refusal of an upgrade alone.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { parseSandboxId } from "../../src/e2b/ids.ts";
import { readIngress, readInternetAccess } from "../../src/e2b/network-options.ts";
import { sandboxDomainFor } from "../../src/e2b/sandbox-domain.ts";
import { checkNewTimeout, checkSandboxOptions, checkTimeout } from "../../src/e2b/sandbox-options.ts";
import {
  ApiError,
  ConnectSandbox,
  ConnectSandboxV2,
  NewSandbox,
  NewSandboxV2,
  ResumedSandbox,
  Sandbox,
  SandboxDetail,
  SandboxNetworkUpdateConfig,
  SandboxParams,
  SandboxPauseRequest,
  SandboxRefreshRequest,
  SandboxStopRequest,
  SandboxTimeoutRequest,
} from "../../src/e2b/schemas.ts";
import { parseTemplateReference } from "../../src/e2b/template-reference.ts";
import { checkSandboxTexts } from "../../src/e2b/text-limits.ts";
import { toSandbox, toSandboxDetail } from "../../src/e2b/views.ts";
import { DomainError } from "../../src/errors.ts";
import type { CreateSandboxRequest, MemoryOption } from "../../src/runtime/contract.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import { whileClientStays } from "../http/client-leave.ts";
import { noContent, sendNothing } from "../http/empty-answer.ts";

export interface SandboxRoutesDeps {
  readonly runtime: Pick<
    Runtime,
    "registry" | "creates" | "pauses" | "resumes" | "ends" | "deadlines" | "internetAccess"
  >;
  /** The longest time to live that a client may ask for. */
  readonly maxTimeoutMs: number;
}

/** The time to live that E2B's two generations of routes give when the client names none. */
export const defaultTimeoutSeconds = { v1: 15, v2: 300 } as const;
/** The shortest time that a refresh gives. */
const minRefreshSeconds = 15;
const defaultStopDeadlineMs = 10_000;
export const startsSandboxes = { startsSandboxes: true } as const;

const created = { 201: Sandbox, "4xx": ApiError, "5xx": ApiError };
const connected = { 200: Sandbox.describe("was running"), 201: Sandbox.describe("was resumed"), "4xx": ApiError };
const done = { 204: noContent, "4xx": ApiError };

export async function sandboxRoutes(scope: FastifyInstance, deps: SandboxRoutesDeps): Promise<void> {
  createRoutes(scope, deps);
  connectRoutes(scope, deps);
  pauseRoutes(scope, deps);
  detailRoutes(scope, deps);
  endRoutes(scope, deps);
  changeRoutes(scope, deps);
}

/** Creates sandboxes. */
function createRoutes(scope: FastifyInstance, { runtime, maxTimeoutMs }: SandboxRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  async function create(body: NewSandbox, route: "v1" | "v2", reply: FastifyReply): Promise<Sandbox> {
    const template = parseTemplateReference(body.templateID);
    const timeoutMs = checkNewTimeout(body.timeout ?? defaultTimeoutSeconds[route], maxTimeoutMs);
    checkSandboxOptions(body, route);
    const sandbox: CreateSandboxRequest = {
      template,
      timeoutMs,
      metadata: body.metadata ?? {},
      envs: body.envVars ?? {},
      allowInternetAccess: readInternetAccess(body.allow_internet_access, body.network),
      ingress: readIngress(body.network),
      lifecycle: {
        onTimeout: body.autoPause ? "pause" : "kill",
        keepMemory: body.autoPauseMemory ?? true,
        autoResume: body.autoResume?.enabled ?? false,
      },
    };
    const idempotencyKey = readIdempotencyKey(reply.request);
    const view = await whileClientStays(reply, (signal) => runtime.creates.create(sandbox, { signal, idempotencyKey }));
    return toSandbox(view, domainOf(reply.request));
  }

  app.post(
    "/sandboxes",
    { config: startsSandboxes, schema: { body: NewSandbox, response: created } },
    async (request, reply) => reply.code(201).send(await create(request.body, "v1", reply)),
  );

  app.post(
    "/v2/sandboxes",
    { config: startsSandboxes, schema: { body: NewSandboxV2, response: created } },
    async (request, reply) => reply.code(201).send(await create(request.body, "v2", reply)),
  );
}

/** Connects to sandboxes, which resumes paused ones. */
function connectRoutes(scope: FastifyInstance, { runtime, maxTimeoutMs }: SandboxRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  async function connect(
    request: FastifyRequest,
    sandboxID: string,
    seconds: number,
    options: { memory?: boolean | null | undefined },
  ) {
    const id = parseSandboxId(sandboxID);
    const timeoutMs = checkTimeout(seconds, maxTimeoutMs);
    const { view, resumed } = await runtime.resumes.connect(id, timeoutMs, memoryOption(options));
    return { status: resumed ? 201 : 200, sandbox: toSandbox(view, domainOf(request)) } as const;
  }

  app.post(
    "/sandboxes/:sandboxID/connect",
    { schema: { params: SandboxParams, body: ConnectSandbox, response: connected } },
    async (request, reply) => {
      const { params, body } = request;
      const { status, sandbox } = await connect(request, params.sandboxID, body.timeout, body);
      return reply.code(status).send(sandbox);
    },
  );

  app.post(
    "/v2/sandboxes/:sandboxID/connect",
    { schema: { params: SandboxParams, body: ConnectSandboxV2, response: connected } },
    async (request, reply) => {
      const { params, body } = request;
      const seconds = body?.timeout ?? defaultTimeoutSeconds.v2;
      const { status, sandbox } = await connect(request, params.sandboxID, seconds, body ?? {});
      return reply.code(status).send(sandbox);
    },
  );

  app.post(
    "/sandboxes/:sandboxID/resume",
    { schema: { params: SandboxParams, body: ResumedSandbox, response: created } },
    async (request, reply) => {
      const { params, body } = request;
      const id = parseSandboxId(params.sandboxID);
      const timeoutMs = checkTimeout(body?.timeout ?? defaultTimeoutSeconds.v1, maxTimeoutMs);
      const envs = body?.envVars;
      if (envs) {
        // Variables add up over many resumes.
        const { record } = runtime.registry.get(id);
        checkSandboxTexts({ metadata: record.metadata, envVars: { ...record.envs, ...envs } });
      }
      const view = await runtime.resumes.resume(id, timeoutMs, { ...memoryOption(body), ...(envs ? { envs } : {}) });
      return reply.code(201).send(toSandbox(view, domainOf(request)));
    },
  );
}

/** Pauses sandboxes. */
function pauseRoutes(scope: FastifyInstance, { runtime }: SandboxRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.post(
    "/sandboxes/:sandboxID/pause",
    { schema: { params: SandboxParams, body: SandboxPauseRequest, response: done } },
    async ({ params, body }, reply) => {
      const id = parseSandboxId(params.sandboxID);
      await runtime.pauses.pause(id, body?.reason ?? "stopped", {
        ...memoryOption(body),
        ...(body?.requireHealthyGuest && { requireAnswer: true }),
      });
      return sendNothing(reply);
    },
  );
}

/** Describes one sandbox. */
function detailRoutes(scope: FastifyInstance, { runtime }: SandboxRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get(
    "/sandboxes/:sandboxID",
    { schema: { params: SandboxParams, response: { 200: SandboxDetail, "4xx": ApiError } } },
    async (request, reply) => {
      const view = runtime.registry.get(parseSandboxId(request.params.sandboxID));
      return reply.send(toSandboxDetail(view, domainOf(request)));
    },
  );
}

/** Ends sandboxes: a kill at once, a stop with time for its processes. */
function endRoutes(scope: FastifyInstance, { runtime }: SandboxRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.delete(
    "/sandboxes/:sandboxID",
    { schema: { params: SandboxParams, response: done } },
    async ({ params }, reply) => {
      await runtime.ends.kill(parseSandboxId(params.sandboxID));
      return sendNothing(reply);
    },
  );

  app.post(
    "/sandboxes/:sandboxID/stop",
    { schema: { params: SandboxParams, body: SandboxStopRequest, response: done } },
    async ({ params, body }, reply) => {
      await runtime.ends.stop(parseSandboxId(params.sandboxID), body?.deadlineMs ?? defaultStopDeadlineMs);
      return sendNothing(reply);
    },
  );
}

/** Changes the deadline and the network of sandboxes. */
function changeRoutes(scope: FastifyInstance, { runtime, maxTimeoutMs }: SandboxRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.post(
    "/sandboxes/:sandboxID/timeout",
    { schema: { params: SandboxParams, body: SandboxTimeoutRequest, response: done } },
    async ({ params, body }, reply) => {
      const timeoutMs = Math.min(body.timeout * 1000, maxTimeoutMs);
      await runtime.deadlines.set(parseSandboxId(params.sandboxID), timeoutMs);
      return sendNothing(reply);
    },
  );

  app.put(
    "/sandboxes/:sandboxID/network",
    { schema: { params: SandboxParams, body: SandboxNetworkUpdateConfig, response: done } },
    async ({ params, body }, reply) => {
      const id = parseSandboxId(params.sandboxID);
      await runtime.internetAccess.set(id, readInternetAccess(body?.allow_internet_access, body));
      return sendNothing(reply);
    },
  );

  app.post(
    "/sandboxes/:sandboxID/refreshes",
    { schema: { params: SandboxParams, body: SandboxRefreshRequest, response: done } },
    async ({ params, body }, reply) => {
      const durationMs = Math.max(body?.duration ?? 0, minRefreshSeconds) * 1000;
      await runtime.deadlines.refresh(parseSandboxId(params.sandboxID), Math.min(durationMs, maxTimeoutMs));
      return sendNothing(reply);
    },
  );
}

/** The domain below which the client of a request finds ports of sandboxes. */
export function domainOf({ headers }: FastifyRequest): string | null {
  return sandboxDomainFor(headers.host);
}

function memoryOption(body: { readonly memory?: boolean | null | undefined } | null | undefined): MemoryOption {
  return { memory: body?.memory ?? true };
}

/** The key of a create, in the form that the newest SDKs give it. @throws DomainError `invalid_argument` */
function readIdempotencyKey({ headers }: FastifyRequest): string | undefined {
  const key = headers["idempotency-key"];
  if (key === undefined) return undefined;
  if (typeof key === "string" && /^[a-z0-9-]{1,255}$/.test(key)) return key;
  throw new DomainError(
    "invalid_argument",
    "Invalid Idempotency-Key: 1 to 255 lowercase letters, digits and hyphens are allowed",
  );
}
