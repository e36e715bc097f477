/** Environments, as the `KEY=VALUE` texts that the protocol carries. */
import { DomainError } from "../../errors.ts";

/** @throws DomainError `invalid_argument` when a name is empty, or holds a `=` and could not be told from its value. */
export function encodeEnvs(envs: Readonly<Record<string, string>>): string[] {
  return Object.entries(envs).map(([key, value]) => {
    if (key === "" || key.includes("=")) {
      throw new DomainError("invalid_argument", `${JSON.stringify(key)} cannot be the name of an environment variable`);
    }
    return `${key}=${value}`;
  });
}

export function decodeEnvs(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf("=");
      return at === -1 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}
