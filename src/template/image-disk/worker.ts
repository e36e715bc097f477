/** The process that makes the disk of an image: its order is on stdin, its events go to stdout (`messages.ts`). */
import { readFile } from "node:fs/promises";
import { setPriority } from "node:os";
import { text } from "node:stream/consumers";
import { rootCertificates } from "node:tls";
import { isDomainError, messageOf } from "../../errors.ts";
import { makeDisk } from "./make-disk.ts";
import { type DiskEvent, orderSchema } from "./messages.ts";

/** Sandboxes come first. */
const niceness = 10;

function say(event: DiskEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

async function work(): Promise<void> {
  setPriority(niceness);
  const { programs, ...order } = orderSchema.parse(JSON.parse(await text(process.stdin)));
  const program = async (path: string) => ({ content: await readFile(path) });
  const gaps = {
    bash: programs && (await program(programs.bash)),
    busybox: programs && { ...(await program(programs.busybox)), applets: programs.applets },
    // Node.js comes with the authorities that Mozilla trusts.
    authorities: rootCertificates.join("\n"),
  };
  const { filled, ...written } = await makeDisk(
    { ...order, gaps },
    (line) => say({ kind: "progress", line }),
    () => say({ kind: "wrote" }),
  );
  say({ kind: "made", ...written, filled: [...filled] });
}

await work().catch((error: unknown) => {
  const isFull = (error as NodeJS.ErrnoException).code === "ENOSPC";
  if (isFull)
    return say({
      kind: "failed",
      code: "disk_pressure",
      message: "the host's disk became full while the image was unpacked",
    });
  if (isDomainError(error) && (error.code === "failed_precondition" || error.code === "unsupported")) {
    return say({ kind: "failed", code: error.code, message: error.message });
  }
  process.stderr.write(`${messageOf(error)}\n${(error as Error).stack ?? ""}\n`);
  process.exitCode = 1;
});
