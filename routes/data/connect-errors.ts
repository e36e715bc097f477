/**
 * RPC errors: one table from error codes to Connect codes (docs/errors.md), and the log line of an unexpected failure.
 */
import { Code, ConnectError, type ContextValues, type Interceptor } from "@connectrpc/connect";
import { type DomainError, type ErrorCode, isDomainError } from "../../src/errors.ts";
import type { Logger } from "../../src/log.ts";

export const connectCodes = {
  invalid_argument: Code.InvalidArgument,
  unauthenticated: Code.Unauthenticated,
  permission_denied: Code.PermissionDenied,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  idempotency_mismatch: Code.InvalidArgument,
  invalid_state: Code.FailedPrecondition,
  failed_precondition: Code.FailedPrecondition,
  capacity_exhausted: Code.ResourceExhausted,
  disk_pressure: Code.ResourceExhausted,
  not_ready: Code.Unavailable,
  deadline_exceeded: Code.DeadlineExceeded,
  unsupported: Code.Unimplemented,
  machine_failed: Code.Unavailable,
  cancelled: Code.Canceled,
  internal: Code.Internal,
} satisfies Record<ErrorCode, Code>;

/** Turns every error, before or in the middle of a stream, into a ConnectError, and logs unexpected ones. */
export function connectErrors(logOf: (values: ContextValues) => Logger): Interceptor {
  return (next) => async (request) => {
    const { signal, method, contextValues } = request;
    const toError = (error: unknown) =>
      toConnectError(error, { method: method.name, signal, log: logOf(contextValues) });
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: mapFailures(response.message, toError) };
    } catch (error) {
      throw toError(error);
    }
  };
}

interface FailedCall {
  readonly method: string;
  /** Aborted when the client has left, or the call's time is over. */
  readonly signal: AbortSignal;
  readonly log: Logger;
}

function toConnectError(error: unknown, { method, signal, log }: FailedCall): ConnectError {
  if (error instanceof ConnectError) return error;
  if (isDomainError(error)) return fromDomainError(error);
  if (signal.aborted && error === signal.reason) {
    log.debug({ method }, "the client of an RPC has left");
    return new ConnectError("the client has left", Code.Canceled, undefined, undefined, error);
  }
  log.error({ err: error, method }, "an RPC failed unexpectedly");
  return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
}

function fromDomainError(error: DomainError): ConnectError {
  return new ConnectError(error.message, connectCodes[error.code], undefined, undefined, error);
}

/**
 * The same stream with its failures mapped. It is no generator, because `return` must pass through while `next` is
 * under way.
 */
function mapFailures<T>(source: AsyncIterable<T>, map: (error: unknown) => unknown): AsyncIterable<T> {
  return {
    [Symbol.asyncIterator]() {
      const iterator = source[Symbol.asyncIterator]();
      return {
        next: () =>
          iterator.next().catch((error: unknown) => {
            throw map(error);
          }),
        return: async (value?: unknown) => (await iterator.return?.(value)) ?? { done: true, value: undefined },
      };
    },
  };
}
