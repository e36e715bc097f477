/** The ids of E2B and their forms. */
import { randomInt } from "node:crypto";
import { DomainError } from "../errors.ts";

const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789";

/**
 * A new sandbox id: `i`, the node tag, 18 random characters. A proxy in front of many machines can route by the node
 * tag. The id has no dash, because host labels are split on it.
 * @param nodeTag two characters of [a-z0-9] that name this machine
 */
export function newSandboxId(nodeTag = "aa"): string {
  return `i${nodeTag}${randomCharacters(18)}`;
}

/** A new template id: 20 random characters. */
export function newTemplateId(): string {
  return randomCharacters(20);
}

/**
 * The sandbox id in a path. Older clients write `<id>-<clientID>`, of which the second part is ignored.
 * @throws DomainError `invalid_argument` when the text can be no sandbox's id
 */
export function parseSandboxId(text: string): string {
  const [id = "", ...rest] = text.split("-");
  if (rest.length > 1 || !/^[a-z0-9]{1,64}$/.test(id)) throw new DomainError("invalid_argument", "Invalid sandbox ID");
  return id;
}

function randomCharacters(count: number): string {
  return Array.from({ length: count }, () => alphabet[randomInt(alphabet.length)]).join("");
}
