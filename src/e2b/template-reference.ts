/**
 * The template reference: `id`, `alias` or `team/alias`, each with an optional `:tag`
 * (docs/compatibility.md#templates).
 */
import { DomainError } from "../errors.ts";
import type { BuildOrigin } from "../template/templates.ts";

/** The name of a machine's one team. Before an alias it changes nothing. */
export const localTeam = "local";

export interface TemplateReference {
  /** Id or alias; for another team `team/alias`, which names no template on this machine. */
  readonly name: string;
  /** Undefined: the default tag. */
  readonly tag: string | undefined;
}

/** The image of E2B's template `base`, which `fromBaseImage()` names. This daemon's template `base` stands for it. */
const baseImage = /^(?:docker\.io\/)?e2bdev\/base(?::latest)?$/;
const baseTemplate: TemplateReference = { name: "base", tag: undefined };

const identifier = /^[a-z0-9_-]{1,128}$/;
const tagForm = /^[a-z0-9_.-]{1,128}$/;
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * @param what E2B's word for the reference in this place, for the error
 * @throws DomainError `invalid_argument` when `text` can name no template
 */
export function parseTemplateReference(text: string, what = "template reference"): TemplateReference {
  const [path = "", tag, ...afterTag] = text.trim().toLowerCase().split(":");
  const names = path.split("/");
  if (afterTag.length > 0 || names.length > 2) throw refusal(what, text, "write it as team/alias:tag");
  if (!names.every((name) => identifier.test(name))) {
    throw refusal(what, text, "names are letters, digits, '-' and '_', at most 128");
  }
  if (tag !== undefined && (!tagForm.test(tag) || uuid.test(tag))) {
    throw refusal(what, text, "a tag is letters, digits, '-', '_' and '.', at most 128, and no UUID");
  }
  return { name: (names[0] === localTeam ? names.slice(-1) : names).join("/"), tag };
}

/**
 * The name of a new template or snapshot, which can only be this team's.
 * @throws DomainError `invalid_argument`, as {@link parseTemplateReference}
 */
export function parseNewName(text: string, what: string): TemplateReference {
  const reference = parseTemplateReference(text, what);
  if (reference.name.includes("/")) throw refusal(what, text, "there is no such team here");
  return reference;
}

/** The origin that a client names for a build. Null and empty texts count as absent. */
interface SentOrigin {
  readonly fromTemplate?: string | null | undefined;
  readonly fromImage?: string | null | undefined;
  readonly fromImageRegistry?: object | null | undefined;
}

/**
 * The template or image to build from, with the login that the client sent.
 * @throws DomainError `invalid_argument` in E2B's words when there is none or there are two, and when `fromTemplate` can
 *   name no template
 */
export function parseBuildOrigin({ fromTemplate, fromImage, fromImageRegistry }: SentOrigin): {
  readonly from: BuildOrigin;
  readonly login: object | undefined;
} {
  const refuse = (message: string) => new DomainError("invalid_argument", message);
  if (fromTemplate && fromImage) throw refuse("cannot specify both fromImage and fromTemplate");
  if (fromTemplate) return { from: { kind: "template", ...parseTemplateReference(fromTemplate) }, login: undefined };
  if (!fromImage) throw refuse("must specify either fromImage or fromTemplate");
  if (!fromImageRegistry && baseImage.test(fromImage)) {
    return { from: { kind: "template", ...baseTemplate }, login: undefined };
  }
  const login = fromImageRegistry ?? undefined;
  return { from: { kind: "image", reference: fromImage, needsLogin: login !== undefined }, login };
}

/** @throws DomainError `invalid_argument` when `text` can be no tag */
export function parseTag(text: string): string {
  const tag = text.trim().toLowerCase();
  if (tagForm.test(tag) && !uuid.test(tag)) return tag;
  throw new DomainError("invalid_argument", `Invalid tag: '${text.slice(0, 256)}'`);
}

function refusal(what: string, text: string, why: string): DomainError {
  return new DomainError("invalid_argument", `Invalid ${what}: '${text.slice(0, 256)}': ${why}`);
}
