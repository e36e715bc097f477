/** A private folder: no other user of this machine reads or changes what is in it. */
import { chmod, mkdir, stat } from "node:fs/promises";
import { DomainError } from "./errors.ts";

/**
 * Makes a folder, or takes one that is there already, for this user alone. A folder of another user is refused, because
 * its owner can open it again at any time, whatever its mode.
 * @param ownUid the user that this process runs as
 * @throws DomainError `invalid_state` when the folder is another user's; it is left as it was
 */
export async function makePrivateFolder(folder: string, ownUid = process.getuid?.()): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { uid } = await stat(folder);
  if (ownUid !== undefined && uid !== ownUid && uid !== 0) {
    const message =
      `The folder ${folder} belongs to the user with the id ${uid}, who could read and change all that is in it. ` +
      `Give it to the user with the id ${ownUid} (chown), or name another folder with --state-dir.`;
    throw new DomainError("invalid_state", message, { folder, uid });
  }
  await chmod(folder, 0o700);
}
