/** What guests trust of the network around the host: an authority that only the host knows, and a proxy. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Sandbox, Template } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeAuthority, makeServerCertificate } from "../../src/tls/certificates.ts";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo } from "../support/daemon/requests.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines();
const domain = "company.test";
const proxy = "http://proxy.company.test:3128";
const url = `https://web.${domain}:8443/`;
/** A server of the company, in the sandbox itself, because a test has no other network. */
const server = `import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"trusted")
    def log_message(self, *_): pass
web = http.server.HTTPServer(("127.0.0.1", 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/web.pem", "/tmp/web.key")
web.socket = context.wrap_socket(web.socket, server_side=True)
web.serve_forever()
`;

describe.skipIf(missing)(titleOf("a network of a company's own", missing), { timeout: 900_000 }, () => {
  let folder: string;
  let daemon: RealDaemon;
  let authority: Awaited<ReturnType<typeof makeAuthority>>;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "firkin-ca-"));
    authority = await makeAuthority(domain, Date.now());
    await writeFile(join(folder, "company.pem"), authority.certificate);
    daemon = await startDaemon({ args: ["--guest-ca", join(folder, "company.pem"), "--guest-proxy", proxy] });
  }, 600_000);

  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  async function runIn(template: string, commands: Readonly<Record<string, string>>): Promise<Record<string, string>> {
    const sandbox = await Sandbox.create(template, { ...connectionTo(daemon), timeoutMs: 600_000 });
    try {
      const { key, certificate } = await makeServerCertificate(authority, domain, Date.now());
      await sandbox.files.write([
        { path: "/tmp/web.pem", data: certificate },
        { path: "/tmp/web.key", data: key },
        { path: "/tmp/web.py", data: server },
      ]);
      const start = `echo 127.0.0.1 web.${domain} | sudo tee -a /etc/hosts >/dev/null; setsid python3 /tmp/web.py </dev/null >/tmp/web.log 2>&1 &`;
      await sandbox.commands.run(`${start} until ss -ltn | grep -q :8443; do sleep 0.2; done`, { timeoutMs: 120_000 });
      const seen: Record<string, string> = {};
      for (const [name, command] of Object.entries(commands)) {
        const ended = await sandbox.commands.run(command, { timeoutMs: 120_000 }).catch((error) => error);
        seen[name] = `${ended.stdout}${ended.stderr}`.trim();
      }
      return seen;
    } finally {
      await sandbox.kill();
    }
  }

  const direct = `no_proxy=.${domain}`;
  const clients = {
    curl: `${direct} curl -sS ${url}`,
    wget: `${direct} wget -t 1 -qO- ${url}`,
    python: `${direct} python3 -c 'import urllib.request; print(urllib.request.urlopen("${url}").read().decode())'`,
    pip: `${direct} pip install --retries 0 --index-url ${url} nothing-here 2>&1 | grep -ciE 'ssl|certificate'`,
    node: `node -e 'fetch("${url}").then((answer) => answer.text()).then(console.log, (error) => console.log(error.cause))'`,
    sudo: `sudo ${direct} curl -sS ${url}`,
  };
  const trusted = { curl: "trusted", wget: "trusted", python: "trusted", pip: "0", node: "trusted", sudo: "trusted" };
  const asked = {
    proxy:
      "echo $https_proxy $HTTPS_PROXY $http_proxy; sudo printenv https_proxy; apt-config dump | grep -c proxy.company",
  };
  const told = { proxy: `${proxy} ${proxy} ${proxy}\n${proxy}\n2` };

  test("is trusted by every program in base, which knows the proxy too", async () => {
    expect(await runIn("base", { ...clients, ...asked })).toEqual({ ...trusted, ...told });
  });

  test("is trusted in a build that boots base anew, and in its sandboxes", async () => {
    const template = Template()
      .fromTemplate("base")
      .runCmd("test -s $NODE_EXTRA_CA_CERTS && echo $https_proxy >/home/user/proxy-of-a-step");
    await Template.build(template, "of-a-company", { ...connectionTo(daemon), cpuCount: 1 });
    const commands = { curl: clients.curl, ...asked, step: "cat /home/user/proxy-of-a-step" };
    expect(await runIn("of-a-company", commands)).toEqual({ curl: "trusted", ...told, step: proxy });
  });
});
