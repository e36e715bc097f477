/** The steps of a build, run one after the other in one guest. Each step gives the context of the next one. */
import { posix } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import { loginPathFile, loginPathScript, wholePath } from "../login-path.ts";
import { absoluteWorkdir, copyFiles } from "./copy-step.ts";
import { type BuildContext, type GuestBuild, runClientCommand, runScript } from "./guest-command.ts";
import type { BuildLog } from "./log.ts";
import { type BuildStep, describeStep } from "./spec.ts";

/** The path of a COPY step's archive on this host. @throws DomainError when the archive was not uploaded */
export type ArchiveOf = (filesHash: string) => string;

/** How far a build is: the steps that its machine has behind it already, of all, and the keys of their layers. */
interface StepProgress {
  readonly done: number;
  readonly total: number;
  readonly keys: readonly string[];
  readonly context: BuildContext;
}

interface StepHooks {
  readonly archiveOf: ArchiveOf;
  /** Called after each step; the build goes on with what it returns. */
  readonly afterStep: (
    build: GuestBuild,
    step: BuildStep,
    key: string,
    context: BuildContext,
  ) => GuestBuild | Promise<GuestBuild>;
}

/**
 * Runs every step.
 * @param steps those that are left
 * @throws DomainError `failed_precondition` of the first step that fails; `build.log.step` names it
 */
export async function runSteps(
  build: GuestBuild,
  steps: readonly BuildStep[],
  { done, total, keys, context: before }: StepProgress,
  { archiveOf, afterStep }: StepHooks,
): Promise<GuestBuild & { readonly context: BuildContext }> {
  let [running, context] = [build, before];
  for (const [index, step] of steps.entries()) {
    const number = done + index + 1;
    running.signal.throwIfAborted();
    const label = `[builder ${number}/${total}]`;
    running.log.beginStep(String(number), label);
    const key = keys[number] ?? "";
    running.log.add("info", `${label} ${describeStep(step)} [${key}]`);
    context = await runStep(running, step, context, archiveOf);
    running = await afterStep(running, step, key, context);
  }
  return { ...running, context };
}

/** Logs steps that need not run. */
export function describeCachedSteps(
  log: BuildLog,
  steps: readonly BuildStep[],
  total: number,
  keys: readonly string[],
): void {
  for (const [index, step] of steps.entries()) {
    log.beginStep(String(index + 1));
    log.add("info", `CACHED [builder ${index + 1}/${total}] ${describeStep(step)} [${keys[index + 1]}]`);
  }
}

async function runStep(
  build: GuestBuild,
  step: BuildStep,
  context: BuildContext,
  archiveOf: ArchiveOf,
): Promise<BuildContext> {
  switch (step.type) {
    case "RUN":
      await runClientCommand(build, step.command, step.user === "" ? context : { ...context, user: step.user });
      return context;
    case "ENV":
      return { ...context, envs: { ...context.envs, ...(await expandAll(build, step.pairs, context)) } };
    case "WORKDIR":
      return { ...context, workdir: await makeWorkdir(build, step.path, context) };
    case "USER":
      return { ...context, user: await makeUser(build, step) };
    case "COPY":
      await copyFiles(build, step, context, archiveOf(step.filesHash));
      return context;
    default:
      return step satisfies never;
  }
}

/** As in Docker, every value sees the environment from before the step. */
async function expandAll(
  build: GuestBuild,
  pairs: readonly (readonly [string, string])[],
  context: BuildContext,
): Promise<Record<string, string>> {
  const expanded: Record<string, string> = {};
  for (const [name, value] of pairs) {
    expanded[name] = value.includes("$") ? await expand(build, name, value, context) : value;
  }
  if (expanded.PATH !== undefined) {
    expanded.PATH = wholePath(expanded.PATH);
    await keepPath(build, expanded.PATH);
  }
  return expanded;
}

/** The agent writes the file, because a shell's own way of quoting differs from image to image. */
async function keepPath({ agent }: GuestBuild, path: string): Promise<void> {
  await agent.setup({ files: [{ path: loginPathFile, content: loginPathScript(path), mode: 0o644 }] });
}

/** The guest's shell expands variables; text that would run a command stays text. */
async function expand(build: GuestBuild, name: string, value: string, context: BuildContext): Promise<string> {
  const quoted = value.replaceAll(/[\\"`]|\$(?=\()/g, "\\$&");
  try {
    return await runScript(build, `printf %s "${quoted}"`, [], context);
  } catch (error) {
    build.signal.throwIfAborted();
    throw new DomainError("failed_precondition", `failed to expand ${name}: ${messageOf(error)}`, {}, { cause: error });
  }
}

const makeDirectory = 'mkdir -p -- "$1" && chown "$2": "$1"';

async function makeWorkdir(build: GuestBuild, path: string, context: BuildContext): Promise<string> {
  try {
    const absolute = posix.resolve(await absoluteWorkdir(build, context), path);
    await runScript(build, makeDirectory, [absolute, context.user]);
    return absolute;
  } catch (error) {
    build.signal.throwIfAborted();
    throw new DomainError("failed_precondition", `failed to make '${path}': ${messageOf(error)}`, {}, { cause: error });
  }
}

/**
 * $1 the name, $2 `yes` for a user who may use sudo without a password. Where there is no useradd, the account books are
 * written as it would write them.
 */
const ensureUser = `
set -eu
if ! id -u "$1" >/dev/null 2>&1; then
  if command -v useradd >/dev/null; then useradd -m -s /bin/bash -- "$1"
  else
    number=1000
    while grep -q "^[^:]*:[^:]*:$number:" /etc/passwd /etc/group; do number=$((number + 1)); done
    home=/home/$1
    mkdir -p "$home"
    if [ -d /etc/skel ]; then cp -a /etc/skel/. "$home/"; fi
    printf '%s:x:%s:\\n' "$1" "$number" >>/etc/group
    printf '%s:x:%s:%s::%s:/bin/bash\\n' "$1" "$number" "$number" "$home" >>/etc/passwd
    if [ -f /etc/shadow ]; then printf '%s:!::0:99999:7:::\\n' "$1" >>/etc/shadow; fi
    chown -R "$number:$number" "$home"
  fi
fi
if [ "$2" = yes ] && command -v sudo >/dev/null; then
  mkdir -p /etc/sudoers.d
  printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\\n' "$1" >"/etc/sudoers.d/$1"
  chmod 0440 "/etc/sudoers.d/$1"
fi
`;

async function makeUser(build: GuestBuild, { name, sudo }: { name: string; sudo: boolean }): Promise<string> {
  try {
    await runScript(build, ensureUser, [name, sudo ? "yes" : "no"]);
    return name;
  } catch (error) {
    build.signal.throwIfAborted();
    throw new DomainError(
      "failed_precondition",
      `failed to make user '${name}': ${messageOf(error)}`,
      {},
      { cause: error },
    );
  }
}
