/**
 * HTTPS with names of the daemon's own, as a user has it: unmodified SDKs know E2B_DOMAIN, a certificate and nothing
 * else. They reach port 443 in a network of the test's own, where the daemon's name server is the only one.
 */
import { execFile, spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { installPythonSdk } from "../support/clients/python-sdk.ts";
import {
  missingForNamespaces,
  type NetworkNamespace,
  openNetworkNamespace,
} from "../support/daemon/network-namespace.ts";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { titleOf } from "../support/skipped-title.ts";

const run = promisify(execFile);
const main = fileURLToPath(new URL("../../dist/src/main.js", import.meta.url));
const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));
const missing = missingForRealMachines() ?? missingForNamespaces();
const domain = "firkin.test";

describe.skipIf(missing)(titleOf("a domain of the daemon's own", missing), () => {
  let network: NetworkNamespace;
  let daemon: RealDaemon;

  beforeAll(async () => {
    network = await openNetworkNamespace();
    const args = ["--tls-port", "443", "--dns-port", "53", "--domain", domain];
    daemon = await startDaemon({ args, enter: network.enter });
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await network?.[Symbol.asyncDispose]();
  });

  /** Runs a command inside, with the variables that `firkin env` prints and no others that the SDK reads. */
  async function inside(command: string): Promise<string> {
    const [nsenter = "", ...rest] = network.enter;
    const script = `eval "$('${process.execPath}' '${main}' env --state-dir '${daemon.stateDir}')" && ${command}`;
    const env = { PATH: process.env.PATH, HOME: process.env.HOME, PYTHONDONTWRITEBYTECODE: "1", E2B_API_URL: "wrong" };
    const { stdout } = await run(nsenter, [...rest, "sh", "-c", script], { env, timeout: 150_000 });
    return stdout;
  }

  test("the JavaScript SDK works over HTTPS", async () => {
    expect(JSON.parse(await inside(`'${process.execPath}' '${fixture("domain.mjs")}'`))).toEqual({
      domain,
      command: "over TLS\n",
      file: "hello",
      download: "hello",
      host: `8000-ID.${domain}`,
      port: "hello",
      private: 403,
      closed: { sandboxId: "ID", message: "The sandbox is running but port is not open", port: 9, code: 502 },
      resumed: "hello",
      sameToken: true,
      listed: 1,
      killed: true,
    });
  });

  test("the Python SDK works over HTTPS", async (context) => {
    const sdk = await installPythonSdk();
    if ("missing" in sdk) return context.skip(sdk.missing);
    expect(JSON.parse(await inside(`'${sdk.python}' '${fixture("domain.py")}'`))).toEqual({
      command: "over TLS\n",
      file: "hello",
      host: `8000-ID.${domain}`,
      port: "hello",
      killed: true,
    });
  });

  test("curl resolves the name and trusts the certificate", async () => {
    const authority = join(daemon.stateDir, "tls", domain, "authority.pem");
    expect(
      await inside(`curl -sS --cacert '${authority}' https://api.${domain}/health -o /dev/null -w '%{http_code}'`),
    ).toBe("204");
    const stranger = `curl -s --cacert '${authority}' https://api.other.test/health; echo $?`;
    expect(await inside(stranger)).toBe("6\n");
  });

  test("doctor sees the certificate", () => {
    const firkin = fileURLToPath(new URL("../../scripts/cli/firkin.mjs", import.meta.url));
    const { stdout } = spawnSync(process.execPath, [firkin, "doctor", "--state-dir", daemon.stateDir], {
      encoding: "utf8",
    });
    expect(stdout).toMatch(new RegExp(`✓ certificate .*${domain}`));
  });
});
