/** Debian's docker-registry with a password, and skopeo, which pushes to it. Both come from the set-up of the tests. */
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, vi } from "vitest";

const run = promisify(execFile);
const isThere = (program: string) => spawnSync(program, ["--version"]).status === 0;

/** Why tests with them are skipped, or false. */
export const missingPrograms =
  ["docker-registry", "skopeo"].filter((program) => !isThere(program)).join(" and ") || false;

export const login = { username: "me", password: "secret" } as const;
/** The password above. */
const htpasswd = "me:$2b$04$d7DP/9B/OAHig6TI9aVTyuS3MR2COBPwpVcNXQRQpldgl4ffdhVd.\n";

export interface DockerRegistry extends AsyncDisposable {
  /** `127.0.0.1:PORT` */
  readonly host: string;
  /** Copies an image to it, with all of its platforms. @param source as skopeo names it: `oci:FOLDER:TAG` */
  push(source: string, name: string): Promise<void>;
}

export async function startDockerRegistry(): Promise<DockerRegistry> {
  const folder = await mkdtemp(join(tmpdir(), "firkin-registry-"));
  const port = await freePort();
  const config = {
    version: 0.1,
    log: { level: "error" },
    storage: { filesystem: { rootdirectory: join(folder, "data") } },
    http: { addr: `127.0.0.1:${port}` },
    auth: { htpasswd: { realm: "firkin", path: join(folder, "htpasswd") } },
  };
  await writeFile(join(folder, "htpasswd"), htpasswd);
  await writeFile(join(folder, "config.yml"), JSON.stringify(config));
  const child = spawn("docker-registry", ["serve", join(folder, "config.yml")], { stdio: "ignore" });
  const url = `http://127.0.0.1:${port}`;
  const status = () =>
    fetch(`${url}/v2/`).then(
      (answer) => answer.status,
      () => 0,
    );
  await vi.waitFor(async () => expect(await status()).toBe(401), { timeout: 20_000 });
  return {
    host: `127.0.0.1:${port}`,
    async push(source, name) {
      const credentials = `${login.username}:${login.password}`;
      const flags = ["--all", "--dest-tls-verify=false", "--dest-creds", credentials];
      await run("skopeo", ["--insecure-policy", "copy", ...flags, source, `docker://127.0.0.1:${port}/${name}`]);
    },
    async [Symbol.asyncDispose]() {
      child.kill();
      await once(child, "exit");
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
