/** The guest's initramfs: the agent as /init, and the kernel modules it loads before anything else. */
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { cpioArchive } from "./cpio.mjs";
import { hashOf, placeAtomically } from "./files.mjs";

/** The folder of the modules in the archive. */
const moduleFolder = "lib/modules";

/**
 * Writes `<assets>/initramfs-<hash>.cpio` and returns its path. It is not compressed, because 2 MB are little for the
 * host, and unpacking them is much for an emulated processor.
 *
 * Contents: `/init` (the agent), `/modules.list` (absolute paths of the modules, one a line, in load order), the
 * modules, `/dev/console` for the agent's standard streams, and empty folders to mount on.
 * @param {import("./roots.mjs").Roots} roots
 * @param {{ modules: readonly string[], agent: string }} parts
 */
export async function makeInitramfs(roots, { modules, agent }) {
  const list = modules.map((module) => `/${moduleFolder}/${basename(module)}\n`).join("");
  const archive = cpioArchive([
    ...["dev", "proc", "sys", "run", "newroot", "lib", moduleFolder].map((path) => ({ path, mode: 0o755 })),
    { path: "dev/console", mode: 0o600, device: /** @type {const} */ ([5, 1]) },
    { path: "dev/null", mode: 0o666, device: /** @type {const} */ ([1, 3]) },
    { path: "init", mode: 0o755, data: fs.readFileSync(agent) },
    { path: "modules.list", mode: 0o644, data: Buffer.from(list) },
    ...modules.map((module) => ({
      path: `${moduleFolder}/${basename(module)}`,
      mode: 0o644,
      data: fs.readFileSync(module),
    })),
  ]);
  const path = join(roots.assets, `initramfs-${hashOf(archive).slice(0, 12)}.cpio`);
  if (!fs.existsSync(path)) await placeAtomically(path, (partial) => fs.writeFileSync(partial, archive));
  return path;
}
