/** How clients name a template: `id`, `alias` or `team/alias`, each with an optional `:tag` (reference 1.6, 1.8). */
import { DomainError } from "../errors.ts";

/** The one team of a machine. Its name in front of an alias changes nothing. */
export const localTeam = "local";

export interface TemplateReference {
  /** Id or alias; of another team's template `team/alias`, which nobody here has. */
  readonly name: string;
  /** Undefined: the default one. */
  readonly tag: string | undefined;
}

const identifier = /^[a-z0-9_-]{1,128}$/;
const tagForm = /^[a-z0-9_.-]{1,128}$/;
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * @param what how E2B calls it where it stands, for the error
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

/** @throws DomainError `invalid_argument` when `text` can be no tag */
export function parseTag(text: string): string {
  const tag = text.trim().toLowerCase();
  if (tagForm.test(tag) && !uuid.test(tag)) return tag;
  throw new DomainError("invalid_argument", `Invalid tag: '${text.slice(0, 256)}'`);
}

function refusal(what: string, text: string, why: string): DomainError {
  return new DomainError("invalid_argument", `Invalid ${what}: '${text.slice(0, 256)}': ${why}`);
}
