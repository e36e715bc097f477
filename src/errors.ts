/**
 * The domain error is the one error class of the daemon. It says what went wrong in the daemon's own words, and does
 * not know HTTP or Connect: `routes/http/errors.ts` holds the table that maps codes to statuses.
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

/** An expected failure. `message` is safe to show a client; `details` are for logs and machine-readable bodies. */
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

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The refusal of new work while the daemon stops. */
export function daemonStopping(): DomainError {
  return new DomainError("not_ready", "The daemon is stopping");
}
