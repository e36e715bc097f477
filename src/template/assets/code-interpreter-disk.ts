/** The root disk of template code-interpreter-v1, which set-up makes when a user wants that template. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

const schema = z.object({ formatVersion: z.literal(1), disk: z.string().startsWith("/") });

/**
 * The absolute path of the disk; undefined before set-up has made it. Its name has a hash of what it was made from.
 * @throws SyntaxError, ZodError when the index of the disk was written by another version
 */
export async function findCodeInterpreterDisk(cacheDir: string): Promise<string | undefined> {
  try {
    const text = await readFile(join(cacheDir, "assets", "code-interpreter.json"), "utf8");
    return schema.parse(JSON.parse(text)).disk;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
