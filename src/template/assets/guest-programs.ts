/**
 * Static programs that set-up keeps for images that lack a shell: Debian's bash and busybox. A cache that an earlier
 * version set up has none of them yet; images that have a shell need none.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

const schema = z.object({
  id: z.string(),
  bash: z.string(),
  busybox: z.string(),
  applets: z.array(z.string()),
});

/** Absolute paths; `id` changes whenever a program does. `applets` are the programs that busybox stands for. */
export type GuestPrograms = z.infer<typeof schema>;

export async function readGuestPrograms(cacheDir: string): Promise<GuestPrograms | undefined> {
  const text = await readFile(join(cacheDir, "assets", "programs.json"), "utf8").catch(() => undefined);
  return text === undefined ? undefined : schema.parse(JSON.parse(text));
}
