/**
 * The copies of what the ledger says of sandboxes: `sandbox.json` in the folder of the machine of a running sandbox, or
 * of the snapshot of a paused one. A daemon that has lost its ledger takes the sandboxes up from them. The folders are
 * the daemon's own: no engine may write in them.
 */
import { chmodSync, renameSync, writeFileSync } from "node:fs";
import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { messageOf } from "../../errors.ts";
import { machineRecord, sandboxIngress, textMap } from "../../ledger/json-columns.ts";
import type { Ledger } from "../../ledger/open.ts";
import { getSnapshot } from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { SandboxRecord, SandboxState } from "../../types.ts";
import type { SandboxView } from "../contract.ts";

const fileName = "sandbox.json";
const count = z.number().int().nonnegative();
const text = z.string();
const record = z.object({
  id: text.regex(/^[a-z0-9]{1,64}$/),
  templateId: text,
  templateAlias: text.nullable(),
  snapshotId: text,
  state: z.enum(["running", "paused", "paused_in_memory"]),
  metadata: textMap,
  envs: textMap,
  defaults: z.object({ user: text, workdir: text }),
  shape: z.object({ vcpuCount: count.positive(), memoryMiB: count.positive(), diskMiB: count }),
  allowInternetAccess: z.boolean(),
  ingress: sandboxIngress,
  lifecycle: z.object({
    onTimeout: z.enum(["kill", "pause"]),
    keepMemory: z.boolean(),
    autoResume: z.boolean(),
    timeoutMs: count,
  }),
  startedAtMs: count,
  endAtMs: count,
  machine: machineRecord.nullable(),
  reservationId: text,
  endReason: z.null(),
});
/** On its way from one of these to another, a sandbox is as it was before. */
const keptStates: ReadonlySet<SandboxState> = new Set(["running", "paused", "paused_in_memory"]);
const copySchema = z.object({ formatVersion: z.literal(1), accessToken: text, record });

/** A sandbox as its copy says, and the folder in which the copy is. */
export interface SandboxCopy {
  readonly folder: string;
  readonly accessToken: string;
  readonly record: SandboxRecord;
}

export class SandboxCopies {
  readonly #ledger: Ledger;
  readonly #log: Logger;

  constructor(ledger: Ledger, log: Logger) {
    this.#ledger = ledger;
    this.#log = log;
  }

  /**
   * Writes the copy of a sandbox that clients see, beside its machine or its snapshot. Two small system calls, so that
   * there is no moment in which a sandbox has none. A copy that cannot be written is logged: the ledger has it all.
   */
  keep({ record, accessToken }: SandboxView): void {
    const rests = record.state === "paused";
    const folder = rests ? getSnapshot(this.#ledger, record.snapshotId)?.folder : record.machine?.folder;
    if (folder === undefined || !keptStates.has(record.state)) return;
    const path = join(folder, fileName);
    try {
      const content = JSON.stringify({ formatVersion: 1, accessToken, record });
      writeFileSync(`${path}.part`, content, { mode: 0o600 });
      chmodSync(`${path}.part`, 0o600);
      renameSync(`${path}.part`, path);
    } catch (error) {
      this.#complain(record.id, error);
      return;
    }
    // A paused sandbox survives the power of its host.
    if (rests) void syncFile(path).catch((error: unknown) => this.#complain(record.id, error));
  }

  #complain(sandboxID: string, error: unknown): void {
    // The machine ended, or the sandbox left, and their folder with them.
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    this.#log.warn(
      { sandboxID, reason: messageOf(error) },
      "the copy of the sandbox beside its files cannot be written",
    );
  }
}

/** The copies in the folders of a folder; those that cannot be read are left out and logged. */
export async function readSandboxCopies(parent: string, log: Logger): Promise<SandboxCopy[]> {
  const names = await readdir(parent).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const copies = await Promise.all(names.map((name) => readCopy(join(parent, name), log)));
  return copies.flatMap((copy) => (copy ? [copy] : []));
}

async function readCopy(folder: string, log: Logger): Promise<SandboxCopy | undefined> {
  try {
    const { accessToken, record } = copySchema.parse(JSON.parse(await readFile(join(folder, fileName), "utf8")));
    return { folder, accessToken, record };
  } catch (error) {
    const isNone = ["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "");
    if (!isNone) log.warn({ folder, reason: messageOf(error) }, "the copy of a sandbox cannot be read");
    return undefined;
  }
}

async function syncFile(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
