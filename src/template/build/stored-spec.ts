/** The form in which the ledger keeps what a build was made from, so that a later daemon can build it again. */
import { z } from "zod";
import type { BuildSpec } from "./spec.ts";

const text = z.string();
const step = z.discriminatedUnion("type", [
  z.object({ type: z.literal("RUN"), command: text, user: text }),
  z.object({ type: z.literal("ENV"), pairs: z.array(z.tuple([text, text])) }),
  z.object({ type: z.literal("WORKDIR"), path: text }),
  z.object({ type: z.literal("USER"), name: text, sudo: z.boolean().default(false) }),
  z.object({
    type: z.literal("COPY"),
    source: text,
    destination: text,
    owner: text,
    mode: text,
    filesHash: text,
  }),
]);
const origin = z.union([
  z.object({ kind: z.literal("image"), reference: text, needsLogin: z.boolean() }),
  // Before there were images, a template had no kind.
  z.object({ kind: z.literal("template").default("template"), name: text, tag: text.optional() }),
]);
const storedSpec = z.object({
  from: origin,
  steps: z.array(step),
  startCommand: text.optional(),
  readyCommand: text.optional(),
});

/** Parses the stored form. @throws ZodError when another version of firkin wrote it */
export function parseStoredSpec(json: string): BuildSpec {
  const { from, steps, startCommand, readyCommand } = storedSpec.parse(JSON.parse(json));
  const parent = from.kind === "image" ? from : { kind: from.kind, name: from.name, tag: from.tag };
  return { from: parent, steps, startCommand, readyCommand };
}

/** The hashes of the archives that a build copies from. @throws ZodError as {@link parseStoredSpec} */
export function copiedHashes(json: string): string[] {
  return parseStoredSpec(json).steps.flatMap((step) => (step.type === "COPY" ? [step.filesHash] : []));
}
