/**
 * The step COPY: an archive that the client uploaded is unpacked in the guest and laid out as Docker does. The archive
 * is hostile input, so it is opened only inside the guest that it is for.
 */
import { createReadStream } from "node:fs";
import { DomainError, messageOf } from "../../errors.ts";
import { type BuildContext, type GuestBuild, runScript } from "./guest-command.ts";
import type { BuildStep } from "./spec.ts";

/**
 * $1 scratch folder, $2 source pattern, $3 destination, $4 owner, $5 mode, $6 working directory.
 * A directory's content is merged into the destination; a file becomes the destination, or goes into it when that ends
 * with a slash, is a directory, or there are several. Links are copied as links. The mode is for files only.
 */
const layOut = `
set -eu
shopt -s globstar nullglob dotglob
scratch=$1 pattern=$2 destination=$3 owner=$4 mode=$5
cd -- "$6"
mkdir -- "$scratch/files"
tar --extract --file "$scratch/archive" --directory "$scratch/files" --no-same-owner --delay-directory-restore
cd -- "$scratch/files"
pattern=$(realpath --canonicalize-missing --no-symlinks --relative-to=. -- "$pattern")
if [ -e "$pattern" ] || [ -L "$pattern" ]; then sources=("$pattern"); else IFS=; sources=($pattern); fi
if [ \${#sources[@]} -eq 0 ]; then echo "no file matches '$2'" >&2; exit 1; fi
chown --recursive --no-dereference -- "$owner" .
if [ -n "$mode" ]; then find . -type f -exec chmod -- "$mode" {} +; fi
make_directory() {
  local missing=$1 first=
  while [ ! -e "$missing" ]; do first=$missing; missing=$(dirname -- "$missing"); done
  mkdir --parents -- "$1"
  if [ -n "$first" ]; then chown --recursive -- "$owner" "$first"; fi
}
into=no
case $destination in */) into=yes ;; esac
if [ -d "$destination" ] || [ \${#sources[@]} -gt 1 ]; then into=yes; fi
for source in "\${sources[@]}"; do
  if [ -d "$source" ] && [ ! -L "$source" ]; then
    make_directory "$destination"
    find "$source" -mindepth 1 -maxdepth 1 -exec cp --archive --target-directory="$destination" -- {} +
  elif [ $into = yes ]; then
    make_directory "$destination"
    cp --archive --target-directory="$destination" -- "$source"
  else
    make_directory "$(dirname -- "$destination")"
    cp --archive --no-target-directory -- "$source" "$destination"
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
  const scratch = (await runScript(build, "mktemp --directory /var/tmp/copy.XXXXXXXX", [])).trim();
  try {
    const bytes: AsyncIterable<Uint8Array> = createReadStream(archive, { highWaterMark: 256 * 1024 });
    await build.agent.write(`${scratch}/archive`, bytes, { user: "root", mode: 0o600 }, build.signal);
    const workdir = await absoluteWorkdir(build, context);
    const destination = step.destination.startsWith("/") ? step.destination : `${workdir}/${step.destination}`;
    const owner = step.owner || `${context.user}:`;
    await runScript(build, layOut, [scratch, step.source, destination, owner, step.mode, workdir]);
  } catch (error) {
    build.signal.throwIfAborted();
    const message = `failed to copy '${step.source}' to '${step.destination}': ${messageOf(error)}`;
    throw new DomainError("failed_precondition", message, {}, { cause: error });
  } finally {
    // A guest that is gone has nothing to remove.
    await runScript(build, 'rm --recursive --force -- "$1"', [scratch]).catch(() => {});
  }
}

/** The folder that relative paths of a build start from. */
export async function absoluteWorkdir(build: GuestBuild, { user, workdir }: BuildContext): Promise<string> {
  if (workdir !== "") return workdir;
  return (await runScript(build, "pwd", [], { user, workdir: "" })).trim();
}
