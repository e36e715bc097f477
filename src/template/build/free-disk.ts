/** The free disk that a build leaves to the sandboxes that are made from it. */
import { DomainError } from "../../errors.ts";
import type { GuestBuild } from "./guest-command.ts";

/**
 * Checks the free space after the steps. A template's disk has a fixed size, so nothing can be added to it.
 * @param minFreeDiskMiB null: the free space does not matter
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
