/** The statuses of RESULT, as errors of the daemon. */
import { DomainError, type ErrorCode } from "../../errors.ts";
import type { Fields } from "./fields.ts";
import { Tag } from "./protocol.ts";

export const STATUS_OK = 0;

/** By status: the protocol's name, which goes into `details.status`, and the daemon's error code. */
const statuses: readonly (readonly [name: string, code: ErrorCode])[] = [
  ["ok", "internal"],
  ["invalid_argument", "invalid_argument"],
  ["not_found", "not_found"],
  ["already_exists", "already_exists"],
  ["permission_denied", "permission_denied"],
  ["failed_precondition", "failed_precondition"],
  ["not_a_directory", "invalid_argument"],
  ["unauthenticated", "unauthenticated"],
  ["unsupported", "unsupported"],
  ["resource_exhausted", "capacity_exhausted"],
  ["no_space", "disk_pressure"],
  ["cancelled", "cancelled"],
  ["internal", "internal"],
  ["is_a_directory", "invalid_argument"],
];

/** The error for a RESULT that is not ok, with `details` `{status, errno?, path?}`. */
export function statusError(status: number, fields: Fields): DomainError {
  const [name, code] = statuses[status] ?? [`status_${status}`, "internal"];
  const errno = fields.optionalInteger(Tag.errno);
  const path = fields.optionalString(Tag.path);
  const details = {
    status: name,
    ...(errno !== undefined && { errno }),
    ...(path !== undefined && { path }),
  };
  return new DomainError(code, fields.optionalString(Tag.message) ?? `The guest agent answered ${name}`, details);
}
