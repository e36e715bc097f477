/** The forms of E2B's ids. A sandbox id has no dash: host labels are split on it. */
import { randomInt } from "node:crypto";
import { DomainError } from "../errors.ts";

const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789";

/**
 * `i`, the node tag, 18 random characters: a proxy in front of many machines could route by the id alone.
 * @param nodeTag two characters of [a-z0-9] that name this machine
 */
export function newSandboxId(nodeTag = "aa"): string {
  return `i${nodeTag}${randomCharacters(18)}`;
}

/** 20 random characters. */
export function newTemplateId(): string {
  return randomCharacters(20);
}

/**
 * The sandbox id in a path. Older clients write `<id>-<clientID>`; the second part means nothing any more.
 * @throws DomainError `invalid_argument` when it can be no sandbox's id
 */
export function parseSandboxId(text: string): string {
  const [id = "", ...rest] = text.split("-");
  if (rest.length > 1 || !/^[a-z0-9]{1,64}$/.test(id)) throw new DomainError("invalid_argument", "Invalid sandbox ID");
  return id;
}

function randomCharacters(count: number): string {
  return Array.from({ length: count }, () => alphabet[randomInt(alphabet.length)]).join("");
}
