/** The failures of a pull, in the sentences that E2B's builds end with. No credential and no answer's body is in them. */
import { DomainError } from "../../errors.ts";
import type { ImageReference } from "./reference.ts";

/** The error of a registry's answer. @param code the registry's own, such as `MANIFEST_UNKNOWN` */
export function pullFailure(image: ImageReference, status: number, code: string | undefined): DomainError {
  const of = `'${image.text}'`;
  const why = (message: string) => new DomainError("failed_precondition", message, { status, code });
  switch (code) {
    case "MANIFEST_UNKNOWN":
      return why(`image ${of} not found: the image or tag does not exist in the registry`);
    case "NAME_UNKNOWN":
      return why(`repository ${of} not found: verify the image name is correct`);
    case "UNAUTHORIZED":
      return why(`access denied to ${of}: authentication required or insufficient permissions`);
    case "DENIED":
      return why(`access denied to ${of}: you don't have permission to pull this image`);
    case "TOOMANYREQUESTS":
      return why(`failed to pull image ${of}: the registry allows no more pulls for now (${status})`);
    default:
  }
  if (status === 404) return pullFailure(image, status, "MANIFEST_UNKNOWN");
  if (status === 401) return pullFailure(image, status, "UNAUTHORIZED");
  if (status === 403) return pullFailure(image, status, "DENIED");
  if (status === 429) return pullFailure(image, status, "TOOMANYREQUESTS");
  return why(`failed to pull image ${of}: registry returned status code ${status}`);
}

/** @param why a fact of the network, such as `connect ECONNREFUSED` */
export function unreachable(image: Pick<ImageReference, "text">, why: string, cause?: unknown): DomainError {
  const message = `failed to pull image '${image.text}': unable to retrieve image from registry (${why})`;
  return new DomainError("failed_precondition", message, { unreachable: true }, { cause });
}

/** The image or its registry breaks the rules. */
export function badImage(image: Pick<ImageReference, "text">, why: string): DomainError {
  return new DomainError("failed_precondition", `failed to pull image '${image.text}': ${why}`);
}
