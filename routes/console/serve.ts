/**
 * The console is a page at `/` that shows the daemon's sandboxes, opens terminals and runs cells. It is served as plain files
 * without a key: the page gets the key from its user and calls the same API as every client. `routes/console` imports
 * no other room.
 */
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import fastifyStatic from "@fastify/static";
import type { FastifyInstance } from "fastify";

const folder = fileURLToPath(new URL("./page/", import.meta.url));
const require = createRequire(import.meta.url);
/** The files that the page takes from npm packages, by the name that it asks for. */
const vendored: Readonly<Record<string, { readonly root: string; readonly path: string }>> = {
  "xterm.mjs": { root: packageFolder("@xterm/xterm"), path: "lib/xterm.mjs" },
  "xterm.css": { root: packageFolder("@xterm/xterm"), path: "css/xterm.css" },
  "addon-fit.mjs": { root: packageFolder("@xterm/addon-fit"), path: "lib/addon-fit.mjs" },
};

/**
 * The page runs the daemon's own files alone, talks to the daemon alone, and no page may frame it. xterm.js makes style
 * elements, which need `unsafe-inline` for styles.
 * Images of cells are blobs that the page itself makes.
 */
const headers = {
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self' 'unsafe-inline'",
    "connect-src 'self'",
    "img-src 'self' blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; "),
  "x-frame-options": "DENY",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-cache",
};

export async function consoleRoutes(app: FastifyInstance): Promise<void> {
  app.addHook("onRoute", (route) => {
    route.config = { ...route.config, access: "open" };
    route.schema = { ...route.schema, hide: true };
  });
  app.addHook("onRequest", async (_request, reply) => {
    reply.headers(headers);
  });
  // Each file has a route of its own, so that no path in a request is resolved against the folder.
  await app.register(fastifyStatic, { root: folder, serve: false, cacheControl: false });
  app.get("/", (_request, reply) => reply.sendFile("index.html"));
  for (const name of readdirSync(folder).filter((each) => /\.(?:js|css|svg)$/.test(each))) {
    app.get(`/console/${name}`, (_request, reply) => reply.sendFile(name));
  }
  for (const [name, { root, path }] of Object.entries(vendored)) {
    app.get(`/console/vendor/${name}`, (_request, reply) => reply.sendFile(path, root));
  }
}

function packageFolder(name: string): string {
  return dirname(require.resolve(`${name}/package.json`));
}
