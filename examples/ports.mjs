/**
 * A port of a sandbox: serves a page in the sandbox and fetches it from this machine by the name that `getHost` gives.
 *
 *   eval "$(npx firkin env)" && node examples/ports.mjs
 *
 * This is plain HTTP. After `npx firkin serve --tls-port 8443` the daemon serves HTTPS as well: `npx firkin env` then
 * exports E2B_DOMAIN, `getHost` gives a name of that domain, and `https://` works with it. `npx firkin tls` says how to
 * trust the certificate.
 */
import { once } from "node:events";
import { get } from "node:http";
import { setTimeout } from "node:timers/promises";
import { Sandbox } from "e2b";

/**
 * Fetches `/` of a name below `localhost`. Browsers and curl resolve such a name by themselves; Node.js does not on
 * every system, so this connects to the loopback address and sends the name as the `Host` header.
 * @param {string} host
 * @returns {Promise<{ status: number | undefined, text: string }>}
 */
async function fetchByName(host) {
  const { port } = new URL(`http://${host}`);
  const [response] = await once(get({ host: "127.0.0.1", port, headers: { host } }), "response");
  let text = "";
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode, text };
}

const sandbox = await Sandbox.create({ timeoutMs: 300_000 });
try {
  await sandbox.files.write("/home/user/page/index.html", "Hello from the sandbox\n");
  // The server listens on the sandbox's loopback only, and can be reached by its name all the same.
  const command = "python3 -m http.server 8000 --bind 127.0.0.1 --directory /home/user/page";
  await sandbox.commands.run(command, { background: true, timeoutMs: 0 });

  const host = sandbox.getHost(8000);
  console.log(`the page is at http://${host}/`);
  let page = await fetchByName(host);
  // Until the server listens, the daemon answers 502.
  for (let tries = 0; page.status === 502 && tries < 30; tries++) {
    console.log("the server does not listen yet");
    await setTimeout(1_000);
    page = await fetchByName(host);
  }
  console.log(`${page.status}: ${page.text.trim()}`);
} finally {
  await sandbox.kill();
}
