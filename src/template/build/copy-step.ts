/**
 * The step COPY: an archive that the client uploaded is unpacked in the guest and laid out as Docker does. The archive
 * is hostile input, so it is opened only inside the guest that it is for.
 */
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { posix } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import { type BuildContext, type GuestBuild, runScript } from "./guest-command.ts";
import type { BuildStep } from "./spec.ts";

/**
 * $1 scratch folder, $2 source pattern below it, $3 destination, $4 owner, $5 mode, $6 working directory, $7 the pattern
 * as the client wrote it, $8 an option of tar for compressed archives. A directory's content is merged into the destination; a file becomes the destination, or goes
 * into it when that ends with a slash, is a directory, or there are several. Links are copied as links. As in E2B, the
 * mode is for everything below a directory, too. Images may have busybox, so no option is GNU's own.
 */
const layOut = `
set -eu
shopt -s globstar nullglob dotglob
scratch=$1 pattern=$2 destination=$3 owner=$4 mode=$5
cd -- "$6"
mkdir -- "$scratch/files"
tar -x -o $8 -f "$scratch/archive" -C "$scratch/files"
cd -- "$scratch/files"
if [ -e "$pattern" ] || [ -L "$pattern" ]; then sources=("$pattern"); else IFS=; sources=($pattern); fi
if [ \${#sources[@]} -eq 0 ]; then echo "no file matches '$7'" >&2; exit 1; fi
chown -R -h "$owner" .
make_directory() {
  local missing=$1 first=
  while [ ! -e "$missing" ]; do first=$missing; missing=$(dirname -- "$missing"); done
  mkdir -p -- "$1"
  if [ -n "$first" ]; then chown -R "$owner" "$first"; fi
}
into=no
case $destination in */) into=yes ;; esac
if [ -d "$destination" ] || [ \${#sources[@]} -gt 1 ]; then into=yes; fi
for source in "\${sources[@]}"; do
  if [ -n "$mode" ] && [ ! -L "$source" ]; then chmod -R "$mode" "$source"; fi
  if [ -d "$source" ] && [ ! -L "$source" ]; then
    make_directory "$destination"
    entries=("$source"/*)
    # A command line has an end.
    for ((at = 0; at < \${#entries[@]}; at += 200)); do
      cp -a -- "\${entries[@]:at:200}" "$destination/"
    done
  elif [ $into = yes ]; then
    make_directory "$destination"
    cp -a -- "$source" "$destination/"
  else
    make_directory "$(dirname -- "$destination")"
    cp -a -- "$source" "$destination"
  fi
done
`;

/** Copies the files of one step. @throws DomainError `failed_precondition` with the message of tar or cp */
export async function copyFiles(
  build: GuestBuild,
  step: Extract<BuildStep, { type: "COPY" }>,
  context: BuildContext,
  archive: string,
): Promise<void> {
  const scratch = (await runScript(build, "mktemp -d /var/tmp/copy.XXXXXXXX", [])).trim();
  try {
    const bytes: AsyncIterable<Uint8Array> = createReadStream(archive, { highWaterMark: 256 * 1024 });
    await build.agent.write(`${scratch}/archive`, bytes, { user: "root", mode: 0o600 }, build.signal);
    const workdir = await absoluteWorkdir(build, context);
    const destination = step.destination.startsWith("/") ? step.destination : `${workdir}/${step.destination}`;
    const unpack = (await isGzip(archive)) ? "-z" : "";
    const pattern = posix.relative("/", posix.resolve("/", step.source)) || ".";
    const owner = ownerOf(step.owner, context.user);
    await runScript(build, layOut, [scratch, pattern, destination, owner, step.mode, workdir, step.source, unpack]);
  } catch (error) {
    build.signal.throwIfAborted();
    const message = `failed to copy '${step.source}' to '${step.destination}': ${messageOf(error)}`;
    throw new DomainError("failed_precondition", message, {}, { cause: error });
  } finally {
    // A guest that is gone has nothing to remove.
    await runScript(build, 'rm -rf -- "$1"', [scratch]).catch(() => {});
  }
}

/** By its first bytes; busybox does not look at them by itself. */
async function isGzip(archive: string): Promise<boolean> {
  const file = await open(archive);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && buffer.readUInt16BE(0) === 0x1f8b;
  } finally {
    await file.close();
  }
}

/** As in E2B, the group of an owner without one has the same name. */
function ownerOf(owner: string, user: string): string {
  if (owner === "") return `${user}:`;
  return owner.includes(":") ? owner : `${owner}:${owner}`;
}

/** The folder that relative paths of a build start from. */
export async function absoluteWorkdir(build: GuestBuild, { user, workdir }: BuildContext): Promise<string> {
  if (workdir !== "") return workdir;
  return (await runScript(build, "pwd", [], { user, workdir: "" })).trim();
}
