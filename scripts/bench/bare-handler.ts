/**
 * The bare handler: a Fastify server without firkin. It reads the body of its answers as one line of JSON, then
 * prints its URL.
 */
import { createInterface } from "node:readline";
import { fastify } from "fastify";

const lines = createInterface({ input: process.stdin });
lines.once("line", (line) => {
  const body = JSON.parse(line) as string;
  const app = fastify();
  app.get("*", (_request, reply) => {
    reply.type("application/json; charset=utf-8").send(body);
  });
  app.listen({ host: "127.0.0.1", port: 0 }).then(
    (url) => process.stdout.write(`${url}\n`),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
lines.once("close", () => process.exit());
