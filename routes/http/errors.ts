/**
 * HTTP errors: one table from error codes to statuses (docs/errors.md), one shape of body, and one handler that logs
 * unexpected failures. `routes/http` holds what both planes share and calls nothing of the other rooms.
 */
import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import type { FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { hasZodFastifySchemaValidationErrors } from "fastify-type-provider-zod";
import { type DomainError, type ErrorCode, isDomainError } from "../../src/errors.ts";

declare module "fastify" {
  interface FastifyContextConfig {
    /** A failure of this route is a sandbox that did not start. */
    readonly startsSandboxes?: true;
  }
}

/**
 * E2B's error body. SDKs read `code`, not the status, to see that a sandbox is missing (docs/compatibility.md#errors).
 */
interface ErrorBody {
  readonly code: number;
  readonly message: string;
  /** Machine-readable, from E2B's open set. */
  readonly error_code?: string;
}

interface HttpError {
  readonly status: number;
  readonly errorCode?: string;
}

export const httpErrors = {
  invalid_argument: { status: 400 },
  unauthenticated: { status: 401 },
  permission_denied: { status: 403 },
  not_found: { status: 404 },
  already_exists: { status: 409 },
  idempotency_mismatch: { status: 422, errorCode: "idempotency_request_mismatch" },
  invalid_state: { status: 409 },
  failed_precondition: { status: 400 },
  capacity_exhausted: { status: 429, errorCode: "sandbox_capacity_unavailable" },
  disk_pressure: { status: 507 },
  not_ready: { status: 503 },
  deadline_exceeded: { status: 504 },
  unsupported: { status: 501 },
  machine_failed: { status: 500, errorCode: "internal_server_error" },
  // The status that nginx logs for it. The client is gone and reads no answer.
  cancelled: { status: 499 },
  internal: { status: 500, errorCode: "internal_server_error" },
} satisfies Record<ErrorCode, HttpError>;

/** E2B's SDK tries again by itself, up to three times, when this is a whole number. */
const retryAfterSeconds = "1";
/** The text of an unexpected error for clients; the log has the rest. */
export const internalMessage = "an internal error occurred; the daemon's log has it";

/** Replies with `{code, message}`. */
export function sendError(
  reply: FastifyReply,
  status: number,
  message: string,
  errorCode?: string,
  retryAfter = retryAfterSeconds,
): FastifyReply {
  if (status === 429 || status === 503) reply.header("retry-after", retryAfter);
  const body: ErrorBody = { code: status, message, ...(errorCode ? { error_code: errorCode } : {}) };
  return reply.code(status).type("application/json; charset=utf-8").send(JSON.stringify(body));
}

/** The body of a failure that is a part of an answer, such as one child of a fork. */
export function describeError(error: unknown, request: FastifyRequest): ErrorBody {
  if (isDomainError(error)) {
    const errorCode = errorCodeOf(error, request);
    return { code: statusOf(error), message: error.message, ...(errorCode ? { error_code: errorCode } : {}) };
  }
  request.log.error(
    { err: error, method: request.method, url: request.url },
    "a part of a request failed unexpectedly",
  );
  return { code: 500, message: internalMessage, error_code: "internal_server_error" };
}

/** Fastify's error handler. It is `frameworkErrors` too, because a URL that cannot be decoded reaches no route. */
export function handleError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (isDomainError(error)) return sendDomainError(error, request, reply);
  if (hasZodFastifySchemaValidationErrors(error)) {
    return sendError(reply, 400, `validation error: ${describeIssues(error)}`);
  }
  if (isClientsFault(error)) {
    return sendError(reply, error.statusCode ?? 400, requestProblems[error.code] ?? error.message);
  }
  // The body ended in the middle, so no client is left to read the answer.
  if (request.raw.destroyed && !request.raw.complete) return sendError(reply, 400, "the body is incomplete");
  request.log.error({ err: error, method: request.method, url: request.url }, "the request failed unexpectedly");
  return sendError(reply, 500, internalMessage, "internal_server_error");
}

/** The status of a failure, for answers that Fastify does not send. */
export function statusOf(error: DomainError): number {
  return httpErrors[error.code].status;
}

function sendDomainError(error: DomainError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const status = statusOf(error);
  if (status === 500) request.log.error({ err: error, details: error.details }, "the request failed");
  const { retryAfterSeconds: wait } = error.details;
  const retryAfter = typeof wait === "number" ? String(wait) : undefined;
  return sendError(reply, status, error.message, errorCodeOf(error, request), retryAfter);
}

function errorCodeOf({ code }: DomainError, request: FastifyRequest): string | undefined {
  const { errorCode }: HttpError = httpErrors[code];
  // E2B's code for a sandbox that got its capacity and did not start.
  const didNotStart = code === "machine_failed" || code === "deadline_exceeded";
  return didNotStart && request.routeOptions.config.startsSandboxes ? "sandbox_create_failed" : errorCode;
}

/** Fastify's own refusals of a request, in texts that say what to do. */
const requestProblems: Readonly<Record<string, string>> = {
  FST_ERR_CTP_INVALID_JSON_BODY: "validation error: the body is not valid JSON",
  FST_ERR_CTP_EMPTY_JSON_BODY: "validation error: the body is empty",
  FST_ERR_CTP_BODY_TOO_LARGE: "the body is too large",
  FST_ERR_CTP_INVALID_MEDIA_TYPE: "the body must be JSON: send Content-Type: application/json",
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: "the body is not as long as Content-Length says",
};

function isClientsFault(error: unknown): error is FastifyError {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return false;
  // `statusCode` alone proves nothing, because code that a handler calls may throw errors with another server's status.
  const status = "statusCode" in error ? error.statusCode : undefined;
  return error.code.startsWith("FST_") && typeof status === "number" && status >= 400 && status < 500;
}

/** `body/timeout: Invalid input: expected number, received string; …` */
function describeIssues(error: Pick<FastifyError, "validation" | "validationContext">): string {
  const place = error.validationContext === "querystring" ? "query" : (error.validationContext ?? "body");
  const issues = (error.validation ?? []).slice(0, 5);
  return issues
    .map(({ instancePath, message }) => `${place}${instancePath === "/" ? "" : instancePath}: ${message}`)
    .join("; ");
}

/** How long a client may take to read the last answer on a connection that ends. */
const farewellMs = 5_000;

/**
 * Handles Node's `clientError`: bytes that are not HTTP, headers that are too long, a client that sends them too
 * slowly.
 */
export function handleClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const status = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }[error.code ?? ""] ?? 400;
  const reason = STATUS_CODES[status] ?? "";
  const body = JSON.stringify({ code: status, message: reason.toLowerCase() } satisfies ErrorBody);
  const head = `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/json; charset=utf-8`;
  socket.write(`${head}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`);
  // A client that neither reads nor closes would keep its place for ever.
  socket.destroySoon();
  const timer = setTimeout(() => socket.destroy(), farewellMs);
  socket.once("close", () => clearTimeout(timer));
}
