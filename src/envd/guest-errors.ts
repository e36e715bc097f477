/** Guest errors in the words that E2B's clients know. */
import { DomainError, isDomainError } from "../errors.ts";

/** The guest protocol's name of a failure; undefined when the failure did not come from the agent. */
export function guestStatus(error: unknown): string | undefined {
  if (!isDomainError(error)) return undefined;
  const { status } = error.details;
  return typeof status === "string" ? status : undefined;
}

/** The same failure in other words. */
export function reword(error: unknown, code: DomainError["code"], message: string): DomainError {
  const details = isDomainError(error) ? error.details : {};
  return new DomainError(code, message, { ...details }, { cause: error });
}

/** Words the failure of an unknown user, for every RPC. Other failures stay as they are. */
export function rewordUser(error: unknown, user: string | undefined): unknown {
  if (guestStatus(error) !== "unauthenticated") return error;
  return reword(error, "unauthenticated", `invalid username: '${user ?? ""}'`);
}
