/** `/openapi.json` describes the control plane, from the schemas that its routes parse with. */
import swagger from "@fastify/swagger";
import type { FastifyInstance } from "fastify";
import { jsonSchemaTransform, jsonSchemaTransformObject } from "fastify-type-provider-zod";
import { ApiError } from "../../src/e2b/schemas.ts";

type Document = ReturnType<typeof jsonSchemaTransformObject>;
interface Operation {
  readonly parameters?: readonly { readonly name: string }[];
  readonly requestBody?: { required: boolean; readonly content: Readonly<Record<string, { schema: Reference }>> };
  readonly responses: Readonly<Record<string, { headers?: Readonly<Record<string, object>> }>>;
}
interface Reference {
  readonly $ref?: string;
}
/** The parts of the document that this file changes. */
interface Described {
  readonly components: { readonly schemas: Readonly<Record<string, { readonly anyOf?: readonly object[] }>> };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

/** Every route may refuse a request, or fail. */
const failures = { "4xx": ApiError, "5xx": ApiError };

/** Describes the routes that `scope` registers after this call. */
export async function describeRoutes(scope: FastifyInstance, version: string): Promise<void> {
  await scope.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: { title: "firkin", description: "E2B's control plane, as this daemon serves it", version },
      components: { securitySchemes: { ApiKeyAuth: { type: "apiKey", in: "header", name: "X-API-Key" } } },
      security: [{ ApiKeyAuth: [] }],
    },
    transform: ({ schema, ...described }) => {
      const { access } = Object(described.route.config);
      const response = { ...failures, ...Object(schema?.response) };
      const security = access === "open" ? { security: [] } : {};
      return jsonSchemaTransform({ ...described, schema: { ...schema, ...security, response } });
    },
    transformObject: (document) => {
      const transformed = jsonSchemaTransformObject(document);
      return Object.assign(transformed, completed(withOwnNames(transformed)));
    },
  });
  scope.get("/openapi.json", { schema: { hide: true } }, async (_request, reply) => reply.send(scope.swagger()));
}

/**
 * The provider makes every schema twice, `Name` for answers and `NameInput` for bodies. Each schema here is one of the
 * two, so this function drops the unused one and gives the used one its own name.
 */
function withOwnNames(document: Document): Described {
  const text = JSON.stringify(document);
  const isUsed = (name: string) => text.includes(`"#/components/schemas/${name}"`);
  const renamed: Described = JSON.parse(text.replaceAll(/("#\/components\/schemas\/\w+?)Input"/g, '$1"'));
  const schemas = Object.entries(renamed.components.schemas)
    .filter(([name]) => isUsed(name))
    .map(([name, schema]) => [name.replace(/Input$/, ""), schema]);
  return { ...renamed, components: { ...renamed.components, schemas: Object.fromEntries(schemas) } };
}

/** Adds the facts that the generator does not know: the bodies that may be left out, and the headers of answers. */
function completed(document: Described): Described {
  const header = (type: string, description: string) => ({ schema: { type }, description });
  for (const operation of Object.values(document.paths).flatMap((path) => Object.values(path))) {
    const { parameters = [], requestBody, responses } = operation;
    const name = requestBody?.content["application/json"]?.schema.$ref?.split("/").at(-1) ?? "";
    const alternatives = document.components.schemas[name]?.anyOf ?? [];
    if (requestBody && alternatives.some((schema) => "type" in schema && schema.type === "null")) {
      requestBody.required = false;
    }
    const retryAfter = { "Retry-After": header("integer", "seconds; with 429 and 503") };
    for (const status of ["4XX", "5XX"]) Object.assign(responses[status] ?? {}, { headers: retryAfter });
    if (parameters.some((parameter) => parameter.name === "nextToken")) {
      const nextToken = { "X-Next-Token": header("string", "when there is another page") };
      Object.assign(responses["200"] ?? {}, { headers: nextToken });
    }
  }
  const listed = document.paths["/v2/sandboxes"]?.get?.responses["200"];
  if (listed) {
    const running = header("integer", "running sandboxes on all pages, when running ones were asked for");
    listed.headers = { ...listed.headers, "X-Total-Running": running };
  }
  return document;
}
