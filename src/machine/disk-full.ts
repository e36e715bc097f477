/** Tells a full disk from every other failure, whether a call of ours or QEMU noticed it. */
import { DomainError, messageOf } from "../errors.ts";

/** @returns `disk_pressure` naming `work` and `folder` when the disk is full, and otherwise the error as it is */
export function explainDiskFull(error: unknown, work: string, folder: string): unknown {
  if (!isDiskFull(error)) return error;
  return new DomainError("disk_pressure", `no space is left on the disk of ${folder} to ${work}`, {}, { cause: error });
}

/** By the errno of our own calls, or its text in QEMU's answer. */
function isDiskFull(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if ("code" in error && error.code === "ENOSPC") return true;
  return /ENOSPC|No space left on device/.test(messageOf(error)) || isDiskFull(error.cause);
}
