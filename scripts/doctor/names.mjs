/** The doctor's look at names: whether the services of sandboxes are found by name, as every program looks names up. */
import { lookup } from "node:dns/promises";

/** @typedef {import("./doctor.mjs").Finding} Finding */

/** A name as `getHost()` of an SDK gives it. */
const example = "3000-example.localhost";
const lookupTimeoutMs = 2000;

/**
 * Asks the system's resolver (getaddrinfo), which programs in Node.js and Python use. Browsers and curl resolve
 * `*.localhost` by themselves.
 * @param {(name: string) => Promise<{ address: string }>} [resolve]
 * @param {string} [platform] As Node.js names it.
 * @returns {Promise<Finding>}
 */
export async function checkLocalNames(resolve = lookup, platform = process.platform) {
  const what = "names of services";
  const address = await Promise.race([
    resolve(example).then(
      (found) => found.address,
      () => undefined,
    ),
    new Promise((done) => setTimeout(done, lookupTimeoutMs).unref()),
  ]);
  if (address === "127.0.0.1" || address === "::1") {
    return { level: "ok", what, detail: `${example} resolves to this machine` };
  }
  const found = address === undefined ? "is not resolved" : `resolves to ${address}, not to this machine`;
  return { level: "advice", what, detail: `${example} ${found} in Node.js and Python`, remedy: remedyFor(platform) };
}

/** @param {string} platform */
function remedyFor(platform) {
  if (platform === "darwin") return "npx firkin tls says how to resolve names on a Mac; browsers and curl need nothing";
  return (
    "install nss-myhostname (Debian, Ubuntu: npm start does, as root; elsewhere it comes with systemd) and have " +
    "`myhostname` in the line `hosts:` of /etc/nsswitch.conf, before `dns`"
  );
}
