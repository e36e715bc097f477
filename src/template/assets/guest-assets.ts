/**
 * The guest assets that set-up made (`scripts/setup/`): kernel, initramfs with the agent, base root disk. This room
 * knows what lies in the cache folder, and calls nothing of the other rooms.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { DomainError } from "../../errors.ts";

const schema = z.object({
  kernel: z.string(),
  kernelVersion: z.string(),
  initramfs: z.string(),
  baseDisk: z.string(),
  agent: z.string(),
});

/** Absolute paths. File names carry a hash of what they were made from, so equal paths mean equal content. */
export type GuestAssets = z.infer<typeof schema>;

/** Reads the list that set-up wrote. @throws DomainError `not_ready` saying how to make the assets */
export async function readGuestAssets(cacheDir: string): Promise<GuestAssets> {
  const index = join(cacheDir, "assets", "assets.json");
  let text: string;
  try {
    text = await readFile(index, "utf8");
  } catch (error) {
    throw new DomainError("not_ready", `There are no guest assets at ${index}. Run: npm start`, {}, { cause: error });
  }
  const parsed = schema.safeParse(JSON.parse(text));
  if (!parsed.success) {
    throw new DomainError(
      "not_ready",
      `${index} does not have the form that this version expects. Delete it and run: npm start`,
    );
  }
  return parsed.data;
}
