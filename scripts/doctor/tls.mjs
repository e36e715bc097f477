/** The doctor's look at HTTPS: the certificate and keys of each domain, and whether its names are resolved. */
import { X509Certificate } from "node:crypto";
import { lookup } from "node:dns/promises";
import * as fs from "node:fs";
import { join } from "node:path";

/** @typedef {import("./doctor.mjs").Finding} Finding */

const dayMs = 86_400_000;
const lookupTimeoutMs = 2000;

/**
 * The findings for all domains that certificates were made for; none where HTTPS is not used.
 * @param {import("../setup/roots.mjs").Roots} roots
 * @returns {Promise<Finding[]>}
 */
export async function checkTls(roots) {
  const folder = join(roots.state, "tls");
  const domains = fs.existsSync(folder) ? fs.readdirSync(folder).sort() : [];
  const findings = await Promise.all(
    domains.map(async (domain) => [checkCertificate(join(folder, domain), domain), await checkNames(domain)]),
  );
  return findings.flat();
}

/**
 * @param {string} folder
 * @param {string} domain
 * @returns {Finding}
 */
function checkCertificate(folder, domain) {
  const what = "certificate";
  const remedy = `rm -r ${folder}, then npx firkin tls --domain ${domain} and trust the new authority`;
  try {
    for (const name of ["authority-key.pem", "server-key.pem"]) {
      const open = fs.statSync(join(folder, name)).mode & 0o077;
      if (open !== 0) return { level: "advice", what, detail: `others may read ${join(folder, name)}`, remedy };
    }
    const days = (/** @type {string} */ name) =>
      Math.floor((Date.parse(new X509Certificate(fs.readFileSync(join(folder, name))).validTo) - Date.now()) / dayMs);
    const [authority, server] = [days("authority.pem"), days("server.pem")];
    const detail = `*.${domain}, valid for ${server} days, its authority for ${authority}; the daemon renews both`;
    return server >= 0 && authority >= 0
      ? { level: "ok", what, detail }
      : {
          level: "advice",
          what,
          detail: `of ${domain}: the certificate has expired`,
          remedy: "npx firkin serve renews the certificate",
        };
  } catch (error) {
    return { level: "advice", what, detail: `of ${domain}: ${error instanceof Error ? error.message : error}`, remedy };
  }
}

/**
 * @param {string} domain
 * @returns {Promise<Finding>}
 */
async function checkNames(domain) {
  const name = `49983-example.${domain}`;
  const address = await Promise.race([
    lookup(name).then(
      (found) => found.address,
      () => undefined,
    ),
    new Promise((done) => setTimeout(done, lookupTimeoutMs).unref()),
  ]);
  const what = "names";
  if (address === "127.0.0.1" || address === "::1")
    return { level: "ok", what, detail: `${name} resolves to this machine` };
  const detail =
    address === undefined ? `${name} is not resolved` : `${name} resolves to ${address}, not to this machine`;
  return { level: "advice", what, detail, remedy: `npx firkin tls --domain ${domain} says how to resolve the names` };
}
