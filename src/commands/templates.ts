/**
 * The commands about templates: `firkin template`, `firkin build`, `firkin builds`. They ask the running daemon over its
 * API, as every client does. This layer is for people; it calls nothing below but the address and key of the daemon.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { DomainError } from "../errors.ts";
import type { ControlApi, TemplateRow } from "./api.ts";
import { buildTemplate } from "./build.ts";

type Say = (line: string) => void;

/** What recipes end with in the catalogue: `python.Dockerfile`. */
const recipeEnding = ".Dockerfile";

/**
 * Runs `firkin template …`, `firkin build …` or `firkin builds …`.
 * @param signal aborted when the person gives up
 * @throws DomainError `invalid_argument` with the usage, and as {@link buildTemplate}
 */
export async function runTemplateCommand(
  command: string,
  args: readonly string[],
  api: ControlApi,
  say: Say,
  signal: AbortSignal,
): Promise<void> {
  if (command === "build") return build(api, args, say, signal);
  const [verb, ...rest] = args;
  if (command === "builds") {
    if (verb !== "prune") throw usage("firkin builds prune");
    const { layers, sizeBytes } = await api.call<{ layers: number; sizeBytes: number }>("DELETE", "/build-cache");
    say(`removed ${layers} steps, ${Math.round(sizeBytes / 2 ** 20)} MiB`);
    return;
  }
  switch (verb) {
    case "list":
      return list(api, say);
    case "build":
      return build(api, rest, say, signal);
    case "delete":
      return remove(api, rest, say);
    case "add":
      return add(api, rest, say, signal);
    default:
      throw usage("firkin template list | build | delete NAME | add NAME");
  }
}

async function list(api: ControlApi, say: Say): Promise<void> {
  const rows = await api.call<TemplateRow[]>("GET", "/templates");
  const lines = rows.map(({ templateID, names, buildStatus, cpuCount, memoryMB, createdAt }) => {
    return [
      names[0] ?? templateID,
      templateID,
      buildStatus,
      `${cpuCount} vCPU`,
      `${memoryMB} MiB`,
      createdAt.slice(0, 16),
    ];
  });
  const table = [["NAME", "ID", "STATUS", "CPU", "MEMORY", "CREATED"], ...lines];
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? [];
  for (const row of table)
    say(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    );
}

async function remove(api: ControlApi, names: readonly string[], say: Say): Promise<void> {
  if (names.length === 0) throw usage("firkin template delete NAME…");
  for (const name of names) {
    await api.call("DELETE", `/templates/${encodeURIComponent(name)}`);
    say(`deleted ${name}`);
  }
}

async function build(api: ControlApi, args: readonly string[], say: Say, signal: AbortSignal): Promise<void> {
  const { values, positionals } = parse(args);
  const [place = ".", ...more] = positionals;
  const { tag: name, cpu, memory } = values;
  if (name === undefined || more.length > 0) throw usage(buildUsage);
  const buildArgs = Object.fromEntries(
    (values["build-arg"] ?? []).map((pair) => {
      const at = pair.indexOf("=");
      if (at < 1) throw usage("--build-arg NAME=VALUE");
      return [pair.slice(0, at), pair.slice(at + 1)] as const;
    }),
  );
  const order = {
    place,
    name,
    buildArgs,
    cpuCount: numberOf(cpu, "--cpu"),
    memoryMB: numberOf(memory, "--memory"),
    noCache: values["no-cache"] ?? false,
  };
  await buildTemplate(api, order, say, signal);
  say(`template ${name} is ready: Sandbox.create('${name}')`);
}

const buildUsage =
  "firkin build [FOLDER or Dockerfile] -t NAME [--build-arg N=V] [--cpu N] [--memory MIB] [--no-cache]";

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        tag: { type: "string", short: "t" },
        "build-arg": { type: "string", multiple: true },
        cpu: { type: "string" },
        memory: { type: "string" },
        "no-cache": { type: "boolean" },
      },
    });
  } catch (error) {
    throw usage(`${buildUsage}\n  ${(error as Error).message}`);
  }
}

function numberOf(text: string | undefined, flag: string): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[1-9]\d*$/.test(text)) throw usage(`${flag} takes a number`);
  return Number(text);
}

/** Builds a template of the catalogue under its own name. */
async function add(api: ControlApi, names: readonly string[], say: Say, signal: AbortSignal): Promise<void> {
  const folder = catalogueFolder();
  const known = (await readdir(folder)).filter((file) => file.endsWith(recipeEnding)).sort();
  const titles = known.map((file) => file.slice(0, -recipeEnding.length));
  if (names.length === 0) throw usage(`firkin template add NAME, of: ${titles.join(", ")}, code-interpreter`);
  for (const name of names) {
    if (!titles.includes(name)) {
      throw new DomainError(
        "invalid_argument",
        `the catalogue has no ${name}; it has: ${titles.join(", ")}, code-interpreter`,
      );
    }
    await build(api, [join(folder, `${name}${recipeEnding}`), "-t", name], say, signal);
  }
}

/** Recipes are read from the sources, beside which dist/ always lies. */
function catalogueFolder(): string {
  const here = fileURLToPath(new URL(".", import.meta.url));
  return here.replace(/(\/dist)?\/src\/commands\/$/, "/src/template/catalogue");
}

const usage = (text: string) => new DomainError("invalid_argument", `usage: ${text}`);
