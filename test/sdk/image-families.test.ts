/**
 * Images of every family of distributions, booted on the real engine: each gets what the SDKs need, from our own files,
 * and trusts the authority that only the host knows, in the build and in its sandboxes.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Sandbox, Template } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeAuthority, makeServerCertificate } from "../../src/tls/certificates.ts";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo } from "../support/daemon/requests.ts";
import { type Family, families, imageOf } from "../support/images/families.ts";
import { TestRegistry } from "../support/images/registry.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines();
/** These are made of a root of Debian, whose making takes a minute. */
const ofDebian: ReadonlySet<Family> = new Set(["debian", "ubuntu", "fedora"]);
const hasAll = process.env.FIRKIN_TEST_IMAGES === "all";
const domain = "company.test";

interface Expected {
  /** What the build says that it added; undefined: nothing. */
  readonly added?: string;
  readonly id: string;
  readonly sudo: boolean;
  readonly python: boolean;
  /** The program of the image that stands for its own ones, and who runs it says. */
  readonly greets: boolean;
}

const expected: Readonly<Record<Family, Expected>> = {
  debian: { added: "the account user, 1000", id: "debian", sudo: true, python: true, greets: false },
  ubuntu: { added: "the account user, 1000", id: "ubuntu", sudo: true, python: true, greets: false },
  fedora: { added: "the account user, 1000", id: "fedora", sudo: false, python: true, greets: false },
  alpine: {
    added: "bash, certificate authorities, the account user, 1000",
    id: "alpine",
    sudo: false,
    python: false,
    greets: true,
  },
  distroless: {
    added: "bash, sh and the programs of busybox, certificate authorities, the account user, 1000",
    id: "debian",
    sudo: false,
    python: false,
    greets: true,
  },
  scratch: {
    added: "bash, sh and the programs of busybox, certificate authorities, the account user, 1000",
    id: "",
    sudo: false,
    python: false,
    greets: true,
  },
};

/** A server of the company and its client, both in the sandbox, because a test has no other network. */
const overTls = `import socket, ssl, threading
settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
settings.load_cert_chain("web.pem", "web.key")
listener = socket.create_server(("127.0.0.1", 8443))
def serve():
    connection, _ = listener.accept()
    with settings.wrap_socket(connection, server_side=True) as secure:
        secure.sendall(b"trusted")
threading.Thread(target=serve, daemon=True).start()
connection = socket.create_connection(("127.0.0.1", 8443))
with ssl.create_default_context().wrap_socket(connection, server_hostname="web.${domain}") as secure:
    print(secure.recv(100).decode())
`;

describe.skipIf(missing)(titleOf("images of every family", missing), { timeout: 900_000 }, () => {
  let folder: string;
  let daemon: RealDaemon;
  let registry: TestRegistry;
  let authority: Awaited<ReturnType<typeof makeAuthority>>;

  beforeAll(async () => {
    registry = await TestRegistry.open();
    folder = await mkdtemp(join(tmpdir(), "firkin-families-"));
    authority = await makeAuthority(domain, Date.now());
    await writeFile(join(folder, "company.pem"), authority.certificate);
    daemon = await startDaemon({ args: ["--guest-ca", join(folder, "company.pem")] });
  }, 600_000);

  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  test.for(families)("an image of the family %s is built on, and its sandboxes work", async (family, { skip }) => {
    skip(ofDebian.has(family) && !hasAll, "npm run test:images");
    const { added, id, sudo, python, greets } = expected[family];
    const image = imageOf(family);
    if (typeof image === "string") throw new Error(image);
    const lines: string[] = [];
    // A line in the middle of the authority's certificate.
    const [, , line = ""] = authority.certificate.split("\n");
    const trusts = `grep -qF '${line}' /etc/ssl/certs/ca-certificates.crt && echo the company is trusted`;
    const greet = family === "scratch" ? "/greet" : "greet";
    const template = Template()
      .fromImage(registry.add(family, image))
      .runCmd(trusts)
      .runCmd("echo made by $(id -un) >/opt/by-root && chmod 644 /opt/by-root", { user: "root" })
      .runCmd(greets ? greet : "true");
    const options = {
      ...connectionTo(daemon),
      onBuildLogs: ({ message }: { message: string }) => void lines.push(message),
    };
    await Template.build(template, family, options);
    const log = lines.join("\n");
    expect(log).toContain(`the image lacks, and was given: ${added}\n`);
    expect(log).toContain("[stdout]: the company is trusted");
    if (greets) expect(log).toContain("[stdout]: greetings from 1000");

    const sandbox = await Sandbox.create(family, { ...connectionTo(daemon), timeoutMs: 600_000 });
    try {
      const run = async (command: string) =>
        (await sandbox.commands.run(command, { timeoutMs: 120_000 })).stdout.trim();
      expect(await run("whoami; pwd; echo $0; cat /opt/by-root")).toBe("user\n/home/user\n/bin/bash\nmade by root");
      expect(await run(". /etc/os-release 2>/dev/null; echo $ID")).toBe(id);
      await sandbox.files.write("/home/user/deep/file.txt", "content");
      expect(await run("cat deep/file.txt; echo back >answer")).toBe("content");
      expect(await sandbox.files.read("answer")).toBe("back\n");
      const roots = sudo
        ? await run("sudo -n id -u")
        : (await sandbox.commands.run("id -u", { user: "root" })).stdout.trim();
      expect(roots).toBe("0");
      expect(await run("command -v sudo || echo no sudo")).toBe(sudo ? "/usr/bin/sudo" : "no sudo");
      expect(await run(trusts)).toBe("the company is trusted");
      if (!python) return;
      const { key, certificate } = await makeServerCertificate(authority, domain, Date.now());
      await sandbox.files.write([
        { path: "/home/user/web.pem", data: certificate },
        { path: "/home/user/web.key", data: key },
        { path: "/home/user/web.py", data: overTls },
      ]);
      expect(await run("python3 web.py")).toBe("trusted");
    } finally {
      await sandbox.kill();
    }
  });
});
