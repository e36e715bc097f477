/** A file of a snapshot gets a second name in a machine's folder, and the other way round. */
import { link, stat } from "node:fs/promises";
import { DomainError, messageOf } from "../errors.ts";
import { noteLink } from "./file-seals.ts";

/**
 * Gives an immutable file a second name, so that the machine that uses it keeps it when the first name is removed.
 * @throws DomainError `failed_precondition` when the two are not on one file system
 */
export async function linkFile(source: string, target: string): Promise<void> {
  try {
    await link(source, target);
  } catch (error) {
    const problem = `cannot link ${source} to ${target}: ${messageOf(error)}`;
    const advice = "Snapshots and machines must be on one file system.";
    throw new DomainError("failed_precondition", `${problem}. ${advice}`, {}, { cause: error });
  }
  noteLink(await stat(target, { bigint: true }));
}
