/** Values that a JSON schema allows, and values that it almost does, for property-based tests. */
import fc from "fast-check";

/** As much of JSON schema as `/openapi.json` uses. */
export interface JsonSchema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly anyOf?: readonly JsonSchema[];
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: JsonSchema | boolean;
  readonly items?: JsonSchema;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly maxItems?: number;
  readonly minItems?: number;
  readonly maxLength?: number;
  readonly format?: string;
}

export type Schemas = Readonly<Record<string, JsonSchema>>;

/** Values that `schema` allows, with wrong ones in places. Patterns are ignored, which makes strings almost right. */
export function arbitraryOf(schema: JsonSchema, schemas: Schemas): fc.Arbitrary<unknown> {
  const inside = (part: JsonSchema) => arbitraryOf(part, schemas);
  const { $ref, anyOf, properties } = schema;
  if ($ref) return inside(schemas[$ref.split("/").at(-1) ?? ""] ?? {});
  if (anyOf) return fc.oneof(...anyOf.map(inside));
  if (schema.enum) return almost(fc.constantFrom(...schema.enum));
  if (Array.isArray(schema.type)) return fc.oneof(...schema.type.map((type) => inside({ ...schema, type })));
  switch (schema.type) {
    case "object":
      return almost(properties ? recordOf(schema, inside) : fc.dictionary(fc.string(), extraOf(schema, inside)));
    case "array":
      return almost(fc.array(inside(schema.items ?? {}), { maxLength: Math.min(schema.maxItems ?? 3, 3) }));
    case "integer":
    case "number":
      return almost(integerOf(schema));
    case "boolean":
      return almost(fc.boolean());
    case "null":
      return fc.constant(null);
    case "string":
      return almost(textOf(schema));
    default:
      return fc.jsonValue({ maxDepth: 2 });
  }
}

function almost(right: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> {
  return fc.oneof({ weight: 30, arbitrary: right }, { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 1 }) });
}

function recordOf({ properties = {}, required = [] }: JsonSchema, inside: (part: JsonSchema) => fc.Arbitrary<unknown>) {
  const model = Object.fromEntries(Object.entries(properties).map(([name, part]) => [name, inside(part)]));
  return fc.record(model, { requiredKeys: [...required] });
}

function extraOf({ additionalProperties }: JsonSchema, inside: (part: JsonSchema) => fc.Arbitrary<unknown>) {
  return typeof additionalProperties === "object" ? inside(additionalProperties) : fc.jsonValue({ maxDepth: 1 });
}

/** Integers near the lower end, and the ends themselves, where things go wrong. */
function integerOf({ minimum = -1_000, maximum = 1_000 }: JsonSchema): fc.Arbitrary<number> {
  const lowest = Math.max(minimum, -10);
  const small = fc.integer({ min: lowest, max: Math.min(maximum, lowest + 100) });
  return fc.oneof({ weight: 5, arbitrary: small }, fc.constantFrom(minimum, maximum, 0, -1, 1.5));
}

function textOf({ maxLength = 30, format }: JsonSchema): fc.Arbitrary<string> {
  if (format === "date-time") return fc.date({ noInvalidDate: true }).map((date) => date.toISOString());
  const words = fc.constantFrom(
    "base",
    "base:default",
    "local/base",
    "a",
    "A b",
    "",
    "x".repeat(maxLength + 1),
    "e/e/e",
  );
  return fc.oneof(
    words,
    fc.string({ maxLength: Math.min(maxLength, 30) }),
    fc.string({ unit: "binary", maxLength: 5 }),
  );
}
