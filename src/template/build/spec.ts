/** The specification of a build: the client's request, checked before anything is started for it. Pure. */
import { createHash } from "node:crypto";
import { DomainError } from "../../errors.ts";
import { filesHashForm } from "../uploads/cache.ts";

/** A step as clients write it: a type and texts. */
export interface RawStep {
  readonly type: string;
  readonly args: readonly string[];
  readonly filesHash?: string | null | undefined;
  /** This step and those after it run, whatever the cache has. */
  readonly force?: boolean | null | undefined;
}

export type BuildStep =
  /** `user` empty: the current one. */
  | { readonly type: "RUN"; readonly command: string; readonly user: string }
  | { readonly type: "ENV"; readonly pairs: readonly (readonly [name: string, value: string])[] }
  | { readonly type: "WORKDIR"; readonly path: string }
  | { readonly type: "USER"; readonly name: string; readonly sudo: boolean }
  /** `owner` empty: the current user; `mode` empty: as uploaded. */
  | {
      readonly type: "COPY";
      readonly source: string;
      readonly destination: string;
      readonly owner: string;
      readonly mode: string;
      readonly filesHash: string;
    };

/** What a build starts from, as the client wrote it, parsed. */
export type BuildOrigin =
  | { readonly kind: "template"; readonly name: string; readonly tag: string | undefined }
  /** `needsLogin`: the client brought a login, which is not kept. */
  | { readonly kind: "image"; readonly reference: string; readonly needsLogin: boolean };

export interface BuildSpec {
  readonly from: BuildOrigin;
  readonly steps: readonly BuildStep[];
  readonly startCommand: string | undefined;
  readonly readyCommand: string | undefined;
}

const maxSteps = 500;
const account = /^(?:[a-z_][a-z0-9_-]{0,31}|[0-9]{1,9})$/i;
const owner = /^[a-z0-9_-]{1,32}(?::[a-z0-9_-]{1,32})?$/i;
const variable = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** @throws DomainError `invalid_argument` or `unsupported` naming the step (1-based) and what is wrong with it */
export function parseSteps(steps: readonly RawStep[]): BuildStep[] {
  if (steps.length > maxSteps) throw new DomainError("invalid_argument", `a build has at most ${maxSteps} steps`);
  return steps.map((step, index) => {
    const refuse = (why: string) => new DomainError("invalid_argument", `step ${index + 1} (${step.type}): ${why}`);
    if (step.args.some((text) => text.includes("\0"))) throw refuse("an argument has a NUL byte");
    return parseStep(step, refuse);
  });
}

function parseStep({ type, args, filesHash }: RawStep, refuse: (why: string) => DomainError): BuildStep {
  const [first = "", second = "", third = "", fourth = ""] = args;
  switch (type.toUpperCase()) {
    case "RUN":
      if (first.trim() === "") throw refuse("there is no command");
      return { type: "RUN", command: first, user: second };
    case "ENV":
    case "ARG":
      return { type: "ENV", pairs: parsePairs(args, refuse) };
    case "WORKDIR":
      if (first === "") throw refuse("there is no path");
      return { type: "WORKDIR", path: first };
    case "USER":
      if (!account.test(first)) throw refuse(`'${first}' cannot be a user's name`);
      return { type: "USER", name: first, sudo: second === "true" };
    case "COPY":
    case "ADD":
      if (first === "" || second === "") throw refuse("source and destination are required");
      if (third !== "" && !owner.test(third)) throw refuse(`'${third}' is no owner: write user or user:group`);
      if (fourth !== "" && !/^[0-7]{3,4}$/.test(fourth)) throw refuse(`'${fourth}' is no octal mode`);
      if (!filesHash || !filesHashForm.test(filesHash)) throw refuse("there is no files hash");
      return { type: "COPY", source: first, destination: second, owner: third, mode: fourth, filesHash };
    default:
      throw new DomainError("unsupported", refuse(`command type ${type.toUpperCase()} is not implemented`).message);
  }
}

function parsePairs(args: readonly string[], refuse: (why: string) => DomainError): [string, string][] {
  if (args.length === 0 || args.length % 2 !== 0) throw refuse("names and values come in pairs");
  return Array.from({ length: args.length / 2 }, (_, index) => {
    const [name = "", value = ""] = args.slice(index * 2, index * 2 + 2);
    if (!variable.test(name)) throw refuse(`'${name}' cannot be the name of a variable`);
    return [name, value];
  });
}

/** The text of a step in a build's log, as E2B has it: type and arguments. */
export function describeStep(step: BuildStep): string {
  switch (step.type) {
    case "RUN":
      return ["RUN", step.command, step.user].filter((text) => text !== "").join(" ");
    case "ENV":
      return `ENV ${step.pairs.flat().join(" ")}`;
    case "WORKDIR":
      return `WORKDIR ${step.path}`;
    case "USER":
      return `USER ${step.name}`;
    case "COPY":
      return ["COPY", step.source, step.destination, step.owner, step.mode].filter((text) => text !== "").join(" ");
    default:
      return step satisfies never;
  }
}

/** The text of an origin in a build's log. */
export function describeOrigin(from: BuildOrigin): string {
  if (from.kind === "image") return `FROM ${from.reference}`;
  return `FROM ${[from.name, from.tag].filter((text) => text !== undefined).join(":")}`;
}

/**
 * A digest of the sources of a build: two equal revisions mean two equal templates.
 * @param parent the build of the parent, or the digest of the image
 */
export function sourceRevision(spec: BuildSpec, parent: string): string {
  return createHash("sha256").update(JSON.stringify({ spec, parent })).digest("hex").slice(0, 32);
}
