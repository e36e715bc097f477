/**
 * A verdict is the result of a probe of this host that only a try can tell, kept in the cache so that the probe runs
 * once.
 */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";

const verdictSchema = z.object({
  /** Everything that could change the verdict. */
  host: z.string(),
  works: z.boolean(),
  reason: z.string(),
  /** Which of several ways of doing it was found to work, where there are several. */
  variant: z.string().optional(),
});
export type Verdict = z.infer<typeof verdictSchema>;

/** The verdict on `host`, if there is one. */
export async function readVerdict(path: string, host: string): Promise<Verdict | undefined> {
  try {
    const verdict = verdictSchema.parse(JSON.parse(await readFile(path, "utf8")));
    return verdict.host === host ? verdict : undefined;
  } catch {
    // The verdict is missing, or another version wrote it. Probing again costs seconds, once.
    return undefined;
  }
}

export async function writeVerdict(path: string, verdict: Verdict): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFile(`${path}.${process.pid}`, JSON.stringify(verdict), { mode: 0o600 });
  await rename(`${path}.${process.pid}`, path);
}
