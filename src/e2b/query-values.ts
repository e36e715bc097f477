/** Values in queries, which are all texts. */
import { z } from "zod";

/**
 * A whole number, as `schema` bounds it. Digits only: JavaScript alone would take an empty text, ` 1`, `0x10` and `1e3`
 * for numbers too.
 */
export function wholeNumber<T extends z.ZodNumber>(schema: T) {
  return z.preprocess((text) => (typeof text === "string" && /^-?\d+$/.test(text) ? Number(text) : text), schema);
}
