/** What a build leaves of its disk to the sandboxes that are made from it. */
import { DomainError } from "../../errors.ts";
import type { GuestBuild } from "./guest-command.ts";

/**
 * The disk of a template has one size, so a build can only be held to what it leaves.
 * @param minFreeDiskMiB null: whatever is left
 * @throws DomainError `failed_precondition` with both figures
 */
export async function checkFreeDisk({ agent, log }: GuestBuild, minFreeDiskMiB: number | null): Promise<void> {
  if (minFreeDiskMiB === null) return;
  const { diskTotalBytes, diskUsedBytes } = await agent.metrics();
  const freeMiB = Math.floor((diskTotalBytes - diskUsedBytes) / 2 ** 20);
  log.add("info", `${freeMiB} MiB of the disk are free`);
  if (freeMiB >= minFreeDiskMiB) return;
  const message = `minFreeDiskMb asks for ${minFreeDiskMiB} MiB, and the steps leave ${freeMiB} MiB of the disk free`;
  throw new DomainError("failed_precondition", message, { freeMiB, minFreeDiskMiB });
}
