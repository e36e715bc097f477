/**
 * Dockerfiles for `firkin build`, read as the SDKs read theirs: instructions become the steps of a build. Unlike the SDKs
 * it knows stages. What cannot be done is an error or a warning that names the line. Pure.
 */
import { DomainError } from "../errors.ts";
import {
  type Command,
  commandOf,
  type Instruction,
  instructionsIn,
  jsonList,
  shellText,
  startOf,
  unquote,
  words,
} from "./dockerfile-text.ts";

export type DockerStep =
  | { readonly type: "RUN" | "ENV" | "WORKDIR" | "USER"; readonly args: readonly string[] }
  | {
      readonly type: "COPY";
      /** Where the files come from; undefined: from the Dockerfile's folder. */
      readonly from: DockerStage | undefined;
      readonly sources: readonly string[];
      readonly destination: string;
      readonly owner: string;
      readonly mode: string;
    };

/** What is built for its files alone, before the template. Two steps that copy from one stage have the same object. */
export interface DockerStage {
  /** As the Dockerfile calls it, for people. */
  readonly title: string;
  readonly image: string;
  readonly steps: readonly DockerStep[];
}

export interface Dockerfile {
  readonly image: string;
  readonly steps: readonly DockerStep[];
  readonly startCommand: string | undefined;
  readonly warnings: readonly string[];
}

interface Stage extends DockerStage {
  readonly name: string | undefined;
  readonly steps: DockerStep[];
  readonly variables: Record<string, string>;
  entrypoint: Command | undefined;
  command: Command | undefined;
  /** Whether the stage has a CMD of its own. */
  hasCommand: boolean;
  hasUser: boolean;
  hasWorkdir: boolean;
}

/** Instructions that change nothing in a template. */
const ignored = new Set(["LABEL", "EXPOSE", "VOLUME", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK", "ONBUILD", "SHELL"]);
const copyFlags = new Set(["chown", "chmod", "from"]);
// As the SDKs do: Docker's defaults first, and firkin's at the end.
const beginning: readonly DockerStep[] = [
  { type: "USER", args: ["root"] },
  { type: "WORKDIR", args: ["/"] },
];

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
  /** Of ARG before the first FROM. */
  readonly #global: Record<string, string> = {};
  readonly #warnings: string[] = [];
  readonly #stages: Stage[] = [];
  /** Images that files are copied from without a stage of their own. */
  readonly #images = new Map<string, DockerStage>();
  #current: Stage | undefined;

  constructor(buildArgs: Readonly<Record<string, string>>) {
    this.#buildArgs = buildArgs;
  }

  read(instruction: Instruction): void {
    const { line, keyword } = instruction;
    if (ignored.has(keyword)) {
      this.#warnings.push(`line ${line}: ${keyword} changes nothing in a template`);
      return;
    }
    const stage = this.#current;
    if (keyword === "FROM") this.#from(instruction);
    else if (keyword === "ARG") this.#arg(instruction);
    else if (stage) this.#inStage(stage, instruction);
    else throw bad(line, `${keyword} stands before FROM`);
  }

  #inStage(stage: Stage, instruction: Instruction): void {
    const { line, keyword, rest } = instruction;
    if (/(^|\s)<<-?["']?\w+/.test(rest) && ["RUN", "COPY", "ADD"].includes(keyword)) {
      throw unsupported(line, "here-documents are not supported: put the lines into a file and COPY it");
    }
    switch (keyword) {
      case "ENV":
        this.#env(stage, instruction);
        return;
      case "RUN":
        stage.steps.push({ type: "RUN", args: [shellText(commandOf(this.#flags(instruction, new Set()).rest))] });
        return;
      case "WORKDIR":
        stage.hasWorkdir = true;
        stage.steps.push({ type: "WORKDIR", args: [this.#expand(unquote(rest))] });
        return;
      case "USER":
        stage.hasUser = true;
        stage.steps.push({ type: "USER", args: [this.#expand(rest).split(":")[0] ?? ""] });
        return;
      case "COPY":
      case "ADD":
        this.#copy(stage, instruction);
        return;
      case "CMD":
        stage.command = commandOf(rest);
        stage.hasCommand = true;
        return;
      case "ENTRYPOINT":
        stage.entrypoint = commandOf(rest);
        // As in Docker, it does away with the CMD of the stage below.
        if (!stage.hasCommand) stage.command = undefined;
        return;
      default:
        throw bad(line, `there is no instruction ${keyword}`);
    }
  }

  finish(): Dockerfile {
    const last = this.#current;
    if (!last) throw bad(1, "there is no FROM");
    const steps = [...last.steps];
    if (!last.hasUser) steps.push({ type: "USER", args: ["user"] });
    if (!last.hasWorkdir) steps.push({ type: "WORKDIR", args: ["/home/user"] });
    const startCommand = startOf(last.entrypoint, last.command);
    return { image: last.image, steps, startCommand, warnings: this.#warnings };
  }

  #from(instruction: Instruction): void {
    const { line } = instruction;
    const [image = "", as, name, ...more] = words(this.#flags(instruction, new Set()).rest);
    const isNamed = as === undefined || (as.toUpperCase() === "AS" && name !== undefined);
    if (image === "" || !isNamed || more.length > 0) throw bad(line, "FROM names one image");
    const origin = this.#expand(image, this.#global);
    const below = this.#stages.findLast((stage) => stage.name === origin.toLowerCase());
    this.#current = {
      name: name?.toLowerCase(),
      title: name ?? origin,
      image: below?.image ?? origin,
      // The steps of the stage below are in the cache, so they cost nothing here.
      steps: [...(below?.steps ?? beginning)],
      variables: { ...this.#global, ...below?.variables },
      entrypoint: below?.entrypoint,
      command: below?.command,
      hasCommand: false,
      hasUser: below?.hasUser ?? false,
      hasWorkdir: below?.hasWorkdir ?? false,
    };
    this.#stages.push(this.#current);
  }

  #arg({ rest }: Instruction): void {
    for (const word of words(rest)) {
      const [name = "", ...value] = word.split("=");
      const given = this.#buildArgs[name] ?? (value.length > 0 ? this.#expand(unquote(value.join("="))) : undefined);
      if (given === undefined) continue;
      (this.#current?.variables ?? this.#global)[name] = given;
      this.#current?.steps.push({ type: "ENV", args: [name, given] });
    }
  }

  #env(stage: Stage, { line, rest }: Instruction): void {
    const all = words(rest);
    const [first = ""] = all;
    const isOld = first !== "" && !first.includes("=");
    const pairs = isOld
      ? [[first, rest.trim().slice(first.length).trim()] as const]
      : all.map((word) => [word.slice(0, word.indexOf("=")), unquote(word.slice(word.indexOf("=") + 1))] as const);
    if (pairs.length === 0 || pairs.some(([name]) => name === "")) throw bad(line, "ENV wants NAME=VALUE");
    for (const [name, value] of pairs) stage.variables[name] = this.#expand(value);
    // The guest expands what it knows better, such as $PATH.
    stage.steps.push({ type: "ENV", args: pairs.flat() });
  }

  #copy(stage: Stage, instruction: Instruction): void {
    const { line, keyword } = instruction;
    const { flags, rest } = this.#flags(instruction, copyFlags);
    const list = jsonList(rest) ?? words(rest).map(unquote);
    const all = list.map((word) => this.#expand(word));
    const destination = all.pop();
    if (destination === undefined || all.length === 0) throw bad(line, `${keyword} wants a source and a destination`);
    const remote = all.find((source) => /^(https?|git):\/\//.test(source));
    if (remote) throw unsupported(line, `${keyword} of ${remote} is not supported: RUN curl or git`);
    const { chown = "", chmod = "", from: origin } = flags;
    const from = origin === undefined ? undefined : this.#stageOf(this.#expand(origin), line);
    stage.steps.push({ type: "COPY", from, sources: all, destination, owner: this.#expand(chown), mode: chmod });
  }

  /** What `--from` names: a stage before this one by its name or number, or an image. */
  #stageOf(origin: string, line: number): DockerStage {
    const earlier = this.#stages.filter((stage) => stage !== this.#current);
    const isNumber = /^\d+$/.test(origin);
    const found = isNumber ? earlier[Number(origin)] : earlier.findLast(({ name }) => name === origin.toLowerCase());
    if (found) return found;
    if (origin === "" || isNumber) throw bad(line, `--from=${origin} is no stage before this one`);
    const image = this.#images.get(origin) ?? { title: origin, image: origin, steps: beginning };
    this.#images.set(origin, image);
    return image;
  }

  /** Takes `--flag=value` off the beginning. Flags that are not known are warned of. */
  #flags({ line, keyword, rest }: Instruction, known: ReadonlySet<string>) {
    const flags: Record<string, string> = {};
    let left = rest.trim();
    for (;;) {
      const [all, name = "", value = ""] = /^--([a-z-]+)(?:=(\S*))?\s*/.exec(left) ?? [];
      if (all === undefined) return { flags, rest: left };
      if (known.has(name)) flags[name] = unquote(value);
      else this.#warnings.push(`line ${line}: --${name} of ${keyword} is ignored`);
      left = left.slice(all.length);
    }
  }

  /** Puts in the variables of ENV and ARG; others stay, for the guest. */
  #expand(text: string, variables = this.#current?.variables ?? this.#global): string {
    return text.replaceAll(/\$(?:\{(\w+)(?::([-+])([^}]*))?\}|(\w+))/g, (whole, braced, kind, word, plain) => {
      const value = variables[(braced ?? plain) as string];
      if (kind === "-") return value || (word as string);
      if (kind === "+") return value ? (word as string) : "";
      return value ?? (whole as string);
    });
  }
}

const bad = (line: number, why: string) => new DomainError("invalid_argument", `Dockerfile, line ${line}: ${why}`);
const unsupported = (line: number, why: string) => new DomainError("unsupported", `Dockerfile, line ${line}: ${why}`);
