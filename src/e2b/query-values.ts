/** Query values, which all arrive as texts. */
import { z } from "zod";

/**
 * A whole number, as `schema` bounds it, of digits only. `Number` alone would take an empty text, ` 1`, `0x10` and
 * `1e3` too.
 */
export function wholeNumber<T extends z.ZodNumber>(schema: T) {
  return z.preprocess((text) => (typeof text === "string" && /^-?\d+$/.test(text) ? Number(text) : text), schema);
}
