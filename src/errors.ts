/**
 * The domain error: the one class of expected failures, with a code and a text. It knows nothing of HTTP or Connect.
 * `routes/http/errors.ts` maps codes to statuses, and docs/errors.md explains every code to clients.
 */
export type ErrorCode =
  | "invalid_argument"
  | "unauthenticated"
  | "permission_denied"
  | "not_found"
  | "already_exists"
  | "idempotency_mismatch"
  | "invalid_state"
  | "failed_precondition"
  | "capacity_exhausted"
  | "disk_pressure"
  | "not_ready"
  | "deadline_exceeded"
  | "unsupported"
  | "machine_failed"
  | "cancelled"
  | "internal";

/** An expected failure. `message` may be shown to a client; `details` are for logs and machine-readable bodies. */
export class DomainError extends Error {
  override readonly name = "DomainError";
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}

/** True when `error` is a {@link DomainError}, of the given code if one is named. */
export function isDomainError(error: unknown, code?: ErrorCode): error is DomainError {
  return error instanceof DomainError && (code === undefined || error.code === code);
}

/** The message of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The refusal of new work while the daemon stops. */
export function daemonStopping(): DomainError {
  return new DomainError("not_ready", "The daemon is stopping");
}
