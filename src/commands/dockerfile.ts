/**
 * Dockerfiles for `firkin build`, read as the SDKs read theirs: one stage, whose instructions become the steps of a
 * build. What cannot be done is an error or a warning that names the line. Pure.
 */
import { DomainError } from "../errors.ts";

export type DockerStep =
  | { readonly type: "RUN" | "ENV" | "WORKDIR" | "USER"; readonly args: readonly string[] }
  | {
      readonly type: "COPY";
      readonly sources: readonly string[];
      readonly destination: string;
      readonly owner: string;
      readonly mode: string;
    };

export interface Dockerfile {
  readonly image: string;
  readonly steps: readonly DockerStep[];
  readonly startCommand: string | undefined;
  readonly warnings: readonly string[];
}

interface Instruction {
  readonly line: number;
  readonly keyword: string;
  readonly rest: string;
}

/** Instructions that change nothing in a template. */
const ignored = new Set(["LABEL", "EXPOSE", "VOLUME", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK", "ONBUILD", "SHELL"]);
const copyFlags = new Set(["chown", "chmod"]);

/**
 * @param buildArgs values of ARG
 * @throws DomainError `invalid_argument` or `unsupported` naming the line
 */
export function parseDockerfile(text: string, buildArgs: Readonly<Record<string, string>> = {}): Dockerfile {
  const reader = new DockerfileReader(buildArgs);
  for (const instruction of instructionsIn(text)) reader.read(instruction);
  return reader.finish();
}

class DockerfileReader {
  readonly #buildArgs: Readonly<Record<string, string>>;
  readonly #variables: Record<string, string> = {};
  // As the SDKs do: Docker's defaults first, and firkin's at the end.
  readonly #steps: DockerStep[] = [
    { type: "USER", args: ["root"] },
    { type: "WORKDIR", args: ["/"] },
  ];
  readonly #warnings: string[] = [];
  #image: string | undefined;
  #entrypoint: Command | undefined;
  #command: Command | undefined;
  #hasUser = false;
  #hasWorkdir = false;

  constructor(buildArgs: Readonly<Record<string, string>>) {
    this.#buildArgs = buildArgs;
  }

  read(instruction: Instruction): void {
    const { line, keyword, rest } = instruction;
    if (ignored.has(keyword)) {
      this.#warnings.push(`line ${line}: ${keyword} changes nothing in a template`);
      return;
    }
    if (keyword !== "FROM" && keyword !== "ARG" && this.#image === undefined) {
      throw bad(line, `${keyword} stands before FROM`);
    }
    if (/(^|\s)<<-?["']?\w+/.test(rest) && ["RUN", "COPY", "ADD"].includes(keyword)) {
      throw unsupported(line, "here-documents are not supported: put the lines into a file and COPY it");
    }
    switch (keyword) {
      case "FROM":
        this.#from(instruction);
        return;
      case "ARG":
        this.#arg(instruction);
        return;
      case "ENV":
        this.#env(instruction);
        return;
      case "RUN":
        this.#steps.push({ type: "RUN", args: [shellText(commandOf(this.#flags(instruction, new Set()).rest))] });
        return;
      case "WORKDIR":
        this.#hasWorkdir = true;
        this.#steps.push({ type: "WORKDIR", args: [this.#expand(unquote(rest))] });
        return;
      case "USER":
        this.#hasUser = true;
        this.#steps.push({ type: "USER", args: [this.#expand(rest).split(":")[0] ?? ""] });
        return;
      case "COPY":
      case "ADD":
        this.#copy(instruction);
        return;
      case "CMD":
        this.#command = commandOf(rest);
        return;
      case "ENTRYPOINT":
        this.#entrypoint = commandOf(rest);
        return;
      default:
        throw bad(line, `there is no instruction ${keyword}`);
    }
  }

  finish(): Dockerfile {
    if (this.#image === undefined) throw bad(1, "there is no FROM");
    const steps = [...this.#steps];
    if (!this.#hasUser) steps.push({ type: "USER", args: ["user"] });
    if (!this.#hasWorkdir) steps.push({ type: "WORKDIR", args: ["/home/user"] });
    const startCommand = startOf(this.#entrypoint, this.#command);
    return { image: this.#image, steps, startCommand, warnings: this.#warnings };
  }

  #from(instruction: Instruction): void {
    const { line } = instruction;
    if (this.#image !== undefined) throw unsupported(line, "multi-stage Dockerfiles are not supported");
    const [image = "", ...more] = words(this.#flags(instruction, new Set()).rest);
    if (image === "" || (more.length > 0 && more[0]?.toUpperCase() !== "AS")) throw bad(line, "FROM names one image");
    this.#image = this.#expand(image);
  }

  #arg({ rest }: Instruction): void {
    for (const word of words(rest)) {
      const [name = "", ...value] = word.split("=");
      const given = this.#buildArgs[name] ?? (value.length > 0 ? this.#expand(unquote(value.join("="))) : undefined);
      if (given === undefined) continue;
      this.#variables[name] = given;
      if (this.#image !== undefined) this.#steps.push({ type: "ENV", args: [name, given] });
    }
  }

  #env({ line, rest }: Instruction): void {
    const all = words(rest);
    const isOld = all[0] !== undefined && !all[0].includes("=");
    const pairs = isOld
      ? [
          [
            all[0] ?? "",
            rest
              .trim()
              .slice((all[0] ?? "").length)
              .trim(),
          ] as const,
        ]
      : all.map((word) => [word.slice(0, word.indexOf("=")), unquote(word.slice(word.indexOf("=") + 1))] as const);
    if (pairs.length === 0 || pairs.some(([name]) => name === "")) throw bad(line, "ENV wants NAME=VALUE");
    for (const [name, value] of pairs) this.#variables[name] = this.#expand(value);
    // The guest expands what it knows better, such as $PATH.
    this.#steps.push({ type: "ENV", args: pairs.flat() });
  }

  #copy(instruction: Instruction): void {
    const { line, keyword } = instruction;
    const { flags, rest } = this.#flags(instruction, copyFlags);
    const list = jsonList(rest) ?? words(rest).map(unquote);
    const all = list.map((word) => this.#expand(word));
    const destination = all.pop();
    if (destination === undefined || all.length === 0) throw bad(line, `${keyword} wants a source and a destination`);
    const remote = all.find((source) => /^(https?|git):\/\//.test(source));
    if (remote) throw unsupported(line, `${keyword} of ${remote} is not supported: RUN curl or git`);
    const { chown = "", chmod = "" } = flags;
    this.#steps.push({ type: "COPY", sources: all, destination, owner: this.#expand(chown), mode: chmod });
  }

  /** Takes `--flag=value` off the beginning. Flags that are not known are warned of. */
  #flags({ line, keyword, rest }: Instruction, known: ReadonlySet<string>) {
    const flags: Record<string, string> = {};
    let left = rest.trim();
    for (;;) {
      const [all, name = "", value = ""] = /^--([a-z-]+)(?:=(\S*))?\s*/.exec(left) ?? [];
      if (all === undefined) return { flags, rest: left };
      if (name === "from") throw unsupported(line, "COPY --from is not supported, because there is one stage");
      if (known.has(name)) flags[name] = unquote(value);
      else this.#warnings.push(`line ${line}: --${name} of ${keyword} is ignored`);
      left = left.slice(all.length);
    }
  }

  /** Puts in the variables of ENV and ARG; others stay, for the guest. */
  #expand(text: string): string {
    return text.replaceAll(/\$(?:\{(\w+)(?::([-+])([^}]*))?\}|(\w+))/g, (whole, braced, kind, word, plain) => {
      const value = this.#variables[(braced ?? plain) as string];
      if (kind === "-") return value || (word as string);
      if (kind === "+") return value ? (word as string) : "";
      return value ?? (whole as string);
    });
  }
}

type Command =
  | { readonly kind: "shell"; readonly text: string }
  | { readonly kind: "list"; readonly words: readonly string[] };

function commandOf(text: string): Command {
  const list = jsonList(text);
  return list ? { kind: "list", words: list } : { kind: "shell", text: text.trim() };
}

const shellText = (command: Command) => (command.kind === "shell" ? command.text : command.words.map(quote).join(" "));

/** Docker's rules: a list of CMD follows a list of ENTRYPOINT; an ENTRYPOINT in shell form ignores CMD. */
function startOf(entrypoint: Command | undefined, command: Command | undefined): string | undefined {
  if (!entrypoint) return command && shellText(command);
  if (entrypoint.kind === "shell" || !command) return shellText(entrypoint);
  return `${shellText(entrypoint)} ${shellText(command)}`;
}

function* instructionsIn(text: string): Generator<Instruction> {
  let begun: { line: number; text: string } | undefined;
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    // As in Docker, also between the lines of one instruction.
    if (/^\s*(#|$)/.test(raw)) continue;
    const continues = /\\\s*$/.test(raw);
    const piece = raw.replace(/\\\s*$/, "");
    begun = { line: begun?.line ?? index + 1, text: `${begun?.text ?? ""}${piece}` };
    if (continues) continue;
    yield instructionOf(begun);
    begun = undefined;
  }
  if (begun) yield instructionOf(begun);
}

function instructionOf({ line, text }: { line: number; text: string }): Instruction {
  const [, keyword = "", rest = ""] = /^\s*(\S+)\s*(.*)$/s.exec(text) ?? [];
  return { line, keyword: keyword.toUpperCase(), rest };
}

/** The words of a line; what is in quotes is one. */
const words = (text: string): string[] => text.match(/(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+/g) ?? [];

function unquote(word: string): string {
  return word.replaceAll(/"((?:\\.|[^"\\])*)"|'([^']*)'|\\(.)/g, (_, double, single, escaped) => {
    if (single !== undefined) return single as string;
    return (double as string | undefined)?.replaceAll(/\\(["\\$])/g, "$1") ?? (escaped as string);
  });
}

const quote = (word: string) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function jsonList(text: string): string[] | undefined {
  if (!text.trim().startsWith("[")) return undefined;
  try {
    const list = JSON.parse(text) as unknown;
    return Array.isArray(list) && list.every((word) => typeof word === "string") ? list : undefined;
  } catch {
    return undefined;
  }
}

const bad = (line: number, why: string) => new DomainError("invalid_argument", `Dockerfile, line ${line}: ${why}`);
const unsupported = (line: number, why: string) => new DomainError("unsupported", `Dockerfile, line ${line}: ${why}`);
