/** `/openapi.json`: the control plane described from the schemas that its routes parse with. */
import swagger from "@fastify/swagger";
import type { FastifyInstance } from "fastify";
import { jsonSchemaTransform, jsonSchemaTransformObject } from "fastify-type-provider-zod";

type Document = ReturnType<typeof jsonSchemaTransformObject>;
type WithSchemas = Document & { readonly components: { readonly schemas: Readonly<Record<string, unknown>> } };

/** Describes the routes that `scope` registers from now on. */
export async function describeRoutes(scope: FastifyInstance, version: string): Promise<void> {
  await scope.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: { title: "firkin", description: "E2B's control plane, as this daemon serves it", version },
      components: { securitySchemes: { ApiKeyAuth: { type: "apiKey", in: "header", name: "X-API-Key" } } },
      security: [{ ApiKeyAuth: [] }],
    },
    transform: jsonSchemaTransform,
    transformObject: (document) => withOwnNames(jsonSchemaTransformObject(document)),
  });
  scope.get("/openapi.json", { schema: { hide: true } }, async (_request, reply) => reply.send(scope.swagger()));
}

/**
 * The provider makes every schema twice, `Name` for answers and `NameInput` for bodies. Here each is only one of them:
 * drops the other, and calls what is left by its name.
 */
function withOwnNames(document: Document): Document {
  const text = JSON.stringify(document);
  const isUsed = (name: string) => text.includes(`"#/components/schemas/${name}"`);
  const renamed: WithSchemas = JSON.parse(text.replaceAll(/("#\/components\/schemas\/\w+?)Input"/g, '$1"'));
  const schemas = Object.entries(renamed.components.schemas)
    .filter(([name]) => isUsed(name))
    .map(([name, schema]) => [name.replace(/Input$/, ""), schema]);
  return Object.assign(renamed, { components: { ...renamed.components, schemas: Object.fromEntries(schemas) } });
}
