/**
 * The features of the unmodified SDKs inside a sandbox, one after the other, with one real machine for each client
 * generation. The lives of sandboxes are in `lifecycle.test.ts`, `pause.test.ts` and `forks.test.ts`.
 */
import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { callUnary } from "../support/clients/connect-frames.ts";
import {
  api,
  connection,
  createSandbox,
  generations,
  type Sandbox,
  sharedDaemon,
  skipReason,
} from "../support/clients/sdk.ts";

const patient = { timeout: 30_000 };
const failure = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => new Error("the call did not fail"),
    (error: Error) => error,
  );

describe.skipIf(skipReason).each(generations)("features of %s", (_, sdk) => {
  let sandbox: Sandbox;
  let made: Awaited<ReturnType<typeof createSandbox>>;

  beforeAll(async () => {
    made = await createSandbox({ timeoutMs: 900_000, envs: { GLOBAL: "g" }, metadata: { job: "features" } }, sdk);
    sandbox = made.sandbox;
  });
  afterAll(() => made?.[Symbol.asyncDispose]());

  test("commands take options, run in the background, are fed, listed, killed and timed out", async () => {
    const { commands } = sandbox;
    const seen: string[] = [];
    const done = await commands.run("echo $PWD $GLOBAL $LOCAL $(id -un); echo e >&2", {
      cwd: "/tmp",
      user: "root",
      envs: { LOCAL: "l" },
      onStdout: (text) => void seen.push(text),
      onStderr: (text) => void seen.push(text),
      timeoutMs: 30_000,
    });
    expect(done).toMatchObject({ exitCode: 0, stdout: "/tmp g l root\n", stderr: "e\n" });
    expect(seen.sort()).toEqual(["/tmp g l root\n", "e\n"]);
    const reader = await commands.run("cat; echo over", { background: true, stdin: true });
    const again = await commands.connect(reader.pid);
    expect((await commands.list()).map(({ pid }) => pid)).toEqual([reader.pid]);
    await reader.sendStdin("one\n");
    await commands.sendStdin(reader.pid, "two\n");
    await reader.closeStdin();
    expect((await Promise.all([reader.wait(), again.wait()])).map(({ stdout }) => stdout)).toEqual(
      Array(2).fill("one\ntwo\nover\n"),
    );
    await expect.poll(async () => (await commands.connect(reader.pid)).wait(), patient).toMatchObject({ exitCode: 0 });
    const endless = await commands.run("sleep 600", { background: true, timeoutMs: 0 });
    expect([await commands.kill(endless.pid), await endless.kill()]).toEqual([true, false]);
    expect(await failure(endless.wait())).toMatchObject({ exitCode: -1, error: "signal: killed" });
    expect(await failure(commands.run("sleep 601", { timeoutMs: 500 }))).toBeInstanceOf(sdk.TimeoutError);
    await expect.poll(() => commands.list(), patient).toEqual([]);
  });

  test("every way in which a command goes wrong has its error", async () => {
    const { commands } = sandbox;
    expect(await failure(commands.run("echo o; echo e >&2; exit 9"))).toMatchObject({
      exitCode: 9,
      stdout: "o\n",
      stderr: "e\n",
      error: "exit status 9",
    });
    expect(await failure(commands.run("kill -SEGV $$"))).toMatchObject({ exitCode: -1 });
    const nowhere = await failure(commands.run("true", { cwd: "/nowhere" }));
    expect([nowhere instanceof sdk.InvalidArgumentError, nowhere.message]).toEqual([
      true,
      expect.stringContaining("cwd '/nowhere' does not exist"),
    ]);
    const nobody = await failure(commands.run("true", { user: "nobody-here" as "user" }));
    expect([nobody instanceof sdk.AuthenticationError, nobody.message]).toEqual([
      true,
      expect.stringContaining("invalid username: 'nobody-here'"),
    ]);
    expect(await failure(commands.connect(999_999))).toBeInstanceOf(sdk.NotFoundError);
    expect(await failure(commands.sendStdin(999_999, "x"))).toBeInstanceOf(sdk.NotFoundError);
    const closed = await commands.run("sleep 602", { background: true });
    expect(String(await failure(commands.sendStdin(closed.pid, "x")))).toContain("stdin not enabled or closed");
    await closed.kill();
  });

  test("large output of a command arrives, and so does output that is not UTF-8", async () => {
    const { stdout } = await sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377\\376é'");
    expect(stdout.length).toBe(3_000_003);
    expect(stdout.endsWith("x\ufffd\ufffdé")).toBe(true);
  });

  test("a terminal is created, typed into, resized, connected to and killed", async () => {
    const { pty } = sandbox;
    const seen = { first: "", second: "" };
    const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
    const type = (pid: number, line: string) => pty.sendInput(pid, new TextEncoder().encode(line));
    const terminal = await pty.create({
      cols: 91,
      rows: 31,
      cwd: "/tmp",
      user: "root",
      envs: { LOCAL: "l" },
      timeoutMs: 60_000,
      onData: (bytes) => {
        seen.first += text(bytes);
      },
    });
    await type(terminal.pid, "echo $(stty size)-$PWD-$LOCAL-$GLOBAL-$(id -un)-$TERM\n");
    await expect.poll(() => seen.first, patient).toContain("31 91-/tmp-l-g-root-xterm-256color\r\n");
    await pty.resize(terminal.pid, { cols: 100, rows: 40 });
    const again = await pty.connect(terminal.pid, {
      onData: (bytes) => {
        seen.second += text(bytes);
      },
    });
    await type(again.pid, "echo now-$(stty size)\n");
    await expect.poll(() => seen.second, patient).toContain("now-40 100\r\n");
    expect(await pty.kill(terminal.pid)).toBe(true);
    expect(await failure(terminal.wait())).toMatchObject({ exitCode: -1 });
    expect(await pty.kill(terminal.pid)).toBe(false);
  });

  test("files are written and read in every form", async () => {
    const { files } = sandbox;
    const text = "größe ✓\n".repeat(1_000);
    const bytes = new TextEncoder().encode(text);
    const stream = () => new Blob([bytes]).stream() as ReadableStream<Uint8Array>;
    const forms: [string, string | ArrayBuffer | Blob | ReadableStream, Parameters<typeof files.writeFiles>[1]][] = [
      ["text", text, {}],
      ["buffer", bytes.buffer as ArrayBuffer, {}],
      ["blob", new Blob([bytes]), { useOctetStream: true }],
      ["stream", stream(), {}],
      ["gzip", text, { gzip: true }],
      ["gzip-stream", stream(), { gzip: true }],
    ];
    for (const [name, data, options] of forms) {
      const written = await files.write(`forms/${name}`, data, options);
      expect(written).toMatchObject({ name, path: `/home/user/forms/${name}`, type: "file" });
      expect(await files.read(`forms/${name}`)).toBe(text);
    }
    for (const gzip of [false, true]) {
      expect(Buffer.from(await files.read("forms/text", { format: "bytes", gzip })).toString()).toBe(text);
      expect(await (await files.read("forms/text", { format: "blob", gzip })).text()).toBe(text);
      const streamed = await files.read("forms/text", { format: "stream", gzip });
      expect(await new Response(streamed).text()).toBe(text);
    }
    const many = Array.from({ length: 25 }, (_each, n) => ({ path: `many/${n % 5}/${n}`, data: `${n}` }));
    expect((await files.writeFiles(many)).map(({ path }) => path)).toEqual(
      many.map(({ path }) => `/home/user/${path}`),
    );
    expect(await files.read("many/4/24")).toBe("24");
  });

  test("files have owners, modes and metadata", async () => {
    const { files } = sandbox;
    await files.write("/srv/deep/er/mine", "x", { user: "user", metadata: { Kind: "report", n: "1" } });
    expect(await files.getInfo("/srv/deep/er/mine")).toMatchObject({
      owner: "user",
      group: "user",
      mode: 0o644,
      permissions: "-rw-r--r--",
      size: 1,
      metadata: { kind: "report", n: "1" },
    });
    expect(await files.getInfo("/srv/deep")).toMatchObject({ owner: "user", mode: 0o755, permissions: "drwxr-xr-x" });
    await files.write("/srv/deep/er/mine", "yy", { user: "root" });
    const replaced = await files.getInfo("/srv/deep/er/mine");
    expect(replaced).toMatchObject({ owner: "root", size: 2 });
    expect(replaced.metadata ?? {}).toEqual({});
    await sandbox.commands.run(
      'setfattr -n user.e2b.by -v hand /srv/deep/er/mine 2>/dev/null || python3 -c \'import os; os.setxattr("/srv/deep/er/mine", "user.e2b.by", b"hand")\'',
      { user: "root" },
    );
    expect((await files.list("/srv/deep/er"))[0]?.metadata).toEqual({ by: "hand" });
    expect(await failure(files.write("bad", "x", { metadata: { k: "ü" } }))).toBeInstanceOf(sdk.InvalidArgumentError);
  });

  test("files and folders are made, listed, described, renamed and removed", async () => {
    const { files } = sandbox;
    expect([await files.makeDir("tree/b/c"), await files.makeDir("tree/b")]).toEqual([true, false]);
    await files.write("tree/a", "1");
    await files.write("tree/b/z", "22");
    await sandbox.commands.run("ln -s /home/user/tree/a tree/link; ln -s nowhere tree/broken; touch tree/$'\\377'");
    expect((await files.list("tree", { depth: 2 })).map(({ path }) => path.slice("/home/user/tree/".length))).toEqual([
      "a",
      "b",
      "b/c",
      "b/z",
      "link",
      "\ufffd",
    ]);
    expect((await files.list("tree")).length).toBe(4);
    expect(await files.getInfo("tree/link")).toMatchObject({ type: "file", symlinkTarget: "/home/user/tree/a" });
    expect(await files.getInfo("~/tree/b")).toMatchObject({ type: "dir", path: "/home/user/tree/b" });
    expect((await files.getInfo("tree/a")).modifiedTime?.getTime()).toBeGreaterThan(Date.now() - 600_000);
    expect((await files.rename("tree/a", "moved/to/a")).path).toBe("/home/user/moved/to/a");
    expect([await files.exists("tree/a"), await files.exists("moved/to/a")]).toEqual([false, true]);
    await files.remove("tree");
    await files.remove("tree");
    expect(await files.exists("tree")).toBe(false);
    const onMissing = [
      files.read("no"),
      files.list("no"),
      files.getInfo("no"),
      files.rename("no", "other"),
      files.watchDir("no", () => {}),
    ];
    // All are awaited at once: a promise that rejects while another is awaited would be an unhandled rejection.
    for (const error of await Promise.all(onMissing.map(failure))) {
      expect(error).toBeInstanceOf(sdk.FileNotFoundError);
    }
    expect(await failure(files.list("moved/to/a"))).toBeInstanceOf(sdk.InvalidArgumentError);
    expect(await failure(files.makeDir("moved/to/a"))).toBeInstanceOf(sdk.InvalidArgumentError);
    expect(String(await failure(files.read("moved")))).toContain("path '/home/user/moved' is a directory");
    expect(await failure(files.list("/", { depth: 0 }))).toBeInstanceOf(sdk.InvalidArgumentError);
    expect(await failure(files.read("x", { user: "nobody-here" as "user" }))).toBeInstanceOf(sdk.AuthenticationError);
  });

  test("a watch tells of every change below its folder until it is stopped or its time is up", async () => {
    const { files } = sandbox;
    await files.makeDir("watched/old");
    const seen: string[] = [];
    const entries = new Map<string, number | undefined>();
    const watch = await files.watchDir(
      "watched",
      ({ type, name, entry }) => {
        seen.push(`${type} ${name}`);
        if (type === "write") entries.set(name, entry?.size);
      },
      { recursive: true, includeEntry: true, allowNetworkMounts: true, timeoutMs: 0 },
    );
    await files.makeDir("watched/new/er");
    await files.write("watched/new/er/file", "12345");
    await expect.poll(() => seen, patient).toContain("write new/er/file");
    expect(entries.get("new/er/file")).toBe(5);
    await files.rename("watched/new/er/file", "watched/old/file");
    await files.remove("watched/old/file");
    await expect.poll(() => seen, patient).toContain("remove old/file");
    const order = ["create new", "create new/er/file", "rename new/er/file", "create old/file", "remove old/file"];
    expect(order.map((event) => seen.indexOf(event))).toEqual(
      order.map((event) => seen.indexOf(event)).sort((a, b) => a - b),
    );
    await watch.stop();
    const count = seen.length;
    await files.write("watched/after", "x");
    expect(seen.length).toBe(count);
    const ended = new Promise<Error | undefined>((resolve) => {
      void files.watchDir("watched", () => {}, { timeoutMs: 300, onExit: resolve });
    });
    expect(await ended).toBeInstanceOf(sdk.TimeoutError);
    expect(await failure(files.watchDir("watched/after", () => {}))).toBeInstanceOf(sdk.InvalidArgumentError);
  });

  test("a signed URL is good for one file and one direction, and runs out", async () => {
    const options = { useSignatureExpiration: 60, user: "root" as const };
    const form = new FormData();
    form.set("file", new Blob(["through a URL"]), "ignored.txt");
    const upload = await sandbox.uploadUrl("/srv/up.txt", options);
    expect((await fetch(upload, { method: "POST", body: form })).status).toBe(200);
    expect(await sandbox.files.getInfo("/srv/up.txt")).toMatchObject({ owner: "root" });
    const url = await sandbox.downloadUrl("/srv/up.txt", options);
    expect(await (await fetch(url)).text()).toBe("through a URL");
    expect((await fetch(url, { method: "HEAD" })).headers.get("content-length")).toBe("13");
    const named = { "e2b-sandbox-id": sandbox.sandboxId, "e2b-sandbox-port": "49983" };
    const answer = async (wrong: string, init: RequestInit = {}) => {
      const response = await fetch(wrong, init);
      return [response.status, await response.json()];
    };
    const expired = await sandbox.downloadUrl("/srv/up.txt", { useSignatureExpiration: -60 });
    for (const headers of [{}, named]) {
      expect(await answer(expired, { headers })).toEqual([401, { code: 401, message: "signature is already expired" }]);
      for (const wrong of [
        url.replace("username=root", "username=user"),
        url.replace("up.txt", "other.txt"),
        url.replace(/signature_expiration=\d+/, "signature_expiration=99999999999"),
        upload,
      ]) {
        expect(await answer(wrong, { headers })).toEqual([401, { code: 401, message: "invalid signature" }]);
      }
    }
  });

  test("git makes repositories, remotes, branches and commits", async () => {
    const { git, files } = sandbox;
    await git.init("/home/user/remote.git", { bare: true, initialBranch: "main" });
    await git.init("/home/user/repo", { initialBranch: "main" });
    await git.configureUser("A", "a@example.com", { scope: "global" });
    expect(await git.getConfig("user.name", { scope: "global" })).toBe("A");
    await files.write("repo/f", "1");
    await git.add("/home/user/repo");
    await git.commit("/home/user/repo", "first");
    await git.remoteAdd("/home/user/repo", "origin", "/home/user/remote.git");
    expect(await git.remoteGet("/home/user/repo", "origin")).toBe("/home/user/remote.git");
    await git.push("/home/user/repo", { remote: "origin", branch: "main", setUpstream: true });
    await git.createBranch("/home/user/repo", "side");
    await git.checkoutBranch("/home/user/repo", "main");
    expect((await git.branches("/home/user/repo")).branches.sort()).toEqual(["main", "side"]);
    await git.deleteBranch("/home/user/repo", "side", { force: true });
    await git.clone("/home/user/remote.git", { path: "/home/user/cloned" });
    await files.write("repo/f", "2");
    expect((await git.status("/home/user/repo")).currentBranch).toBe("main");
    await git.restore("/home/user/repo", { paths: ["f"] });
    expect(await files.read("repo/f")).toBe("1");
    expect(await files.read("cloned/f")).toBe("1");
    await git.pull("/home/user/cloned");
  });

  test("a sandbox tells its facts and metrics, and takes a new time and network", async () => {
    const info = await sandbox.getInfo();
    expect(info).toMatchObject({ metadata: { job: "features" }, state: "running", envdVersion: "0.6.13" });
    const full = await sdk.Sandbox.getFullInfo(sandbox.sandboxId, connection());
    expect(full).toMatchObject({ sandboxId: sandbox.sandboxId });
    await sandbox.setTimeout(800_000);
    expect((await sandbox.getInfo()).endAt.getTime() - Date.now()).toBeLessThan(801_000);
    await expect.poll(() => sandbox.getMetrics().then((samples) => samples.length), patient).toBeGreaterThan(0);
    const [sample] = await sandbox.getMetrics();
    expect(sample?.memTotal).toBeGreaterThan(400_000_000);
    expect(sample).toMatchObject({ cpuCount: 2, memCache: expect.any(Number), diskTotal: expect.any(Number) });
    expect(await sandbox.isRunning()).toBe(true);
    expect(sandbox.getHost(8_000)).toMatch(new RegExp(`^8000-${sandbox.sandboxId}\\.`));
    await sandbox.updateNetwork({ denyOut: [sdk.ALL_TRAFFIC] });
    expect((await sandbox.getInfo()).network?.denyOut).toEqual([sdk.ALL_TRAFFIC]);
    await sandbox.updateNetwork({});
    const client = new sdk.E2B(connection());
    const same = await client.Sandbox.connect(sandbox.sandboxId);
    expect((await same.commands.run("echo same")).stdout).toBe("same\n");
  });

  test("create takes options of lifecycle and internet, and a paused sandbox is listed by its state", async () => {
    const options = { ...connection(), timeoutMs: 60_000, metadata: { job: randomUUID() } };
    const lifecycle = { onTimeout: "pause", autoResume: true } as const;
    const other = await sdk.Sandbox.create("base", { ...options, allowInternetAccess: false, lifecycle });
    expect(await other.getInfo()).toMatchObject({ allowInternetAccess: false, lifecycle });
    expect(await other.betaPause()).toBe(true);
    const query = { metadata: options.metadata, state: ["paused" as const] };
    const paused = await sdk.Sandbox.list({ ...connection(), query }).nextItems();
    expect(paused.map(({ sandboxId }) => sandboxId)).toEqual([other.sandboxId]);
    expect(await other.kill()).toBe(true);
  });

  test("a template is built, found, tagged and used", async () => {
    const name = `features-${randomUUID()}`;
    const template = sdk.Template().fromTemplate("base").runCmd("echo built > /home/user/made");
    const { templateId } = await sdk.Template.build(template, `${name}:v1`, connection());
    try {
      expect(await sdk.Template.exists(name, connection())).toBe(true);
      await sdk.Template.assignTags(`${name}:v1`, ["default"], connection());
      await sdk.Template.removeTags(name, ["v1"], connection());
      expect((await sdk.Template.getTags(name, connection())).map(({ tag }) => tag)).toEqual(["default"]);
      const of = await sdk.Sandbox.create(name, { ...connection(), timeoutMs: 60_000 });
      expect(await of.files.read("made")).toBe("built\n");
      await of.kill();
    } finally {
      await api(`/templates/${templateId}`, { method: "DELETE" });
    }
  });

  test("a snapshot is listed, used and deleted, and a command goes on over a fork and a pause", async () => {
    await sandbox.files.write("kept", "kept");
    const sleeper = await sandbox.commands.run("sleep 600", { background: true, timeoutMs: 0 });
    const { snapshotId } = await sandbox.createSnapshot();
    const listed = await sandbox.listSnapshots().nextItems();
    expect(listed.map((each) => each.snapshotId)).toContain(snapshotId);
    const copy = await sdk.Sandbox.create(snapshotId, { ...connection(), timeoutMs: 60_000 });
    expect(await copy.files.read("kept")).toBe("kept");
    await copy.kill();
    expect(await sdk.Sandbox.deleteSnapshot(snapshotId, connection())).toBe(true);
    expect(await sdk.Sandbox.deleteSnapshot(snapshotId, connection())).toBe(false);
    const [child] = await sandbox.fork({ timeoutMs: 60_000 });
    if (!child || child instanceof Error) throw child ?? new Error("no fork");
    expect((await child.commands.list()).map(({ pid }) => pid)).toEqual([sleeper.pid]);
    await child.kill();
    const streaming = failure(sleeper.wait());
    expect([await sandbox.pause(), await sandbox.pause()]).toEqual([true, false]);
    expect(await streaming).toBeInstanceOf(sdk.TimeoutError);
    expect(await sandbox.isRunning()).toBe(false);
    expect(String(await failure(sandbox.commands.run("true")))).toContain("probably not running anymore");
    await sandbox.connect({ timeoutMs: 600_000 });
    expect((await sandbox.commands.list()).map(({ pid }) => pid)).toEqual([sleeper.pid]);
    expect(await sandbox.commands.kill(sleeper.pid)).toBe(true);
  });

  test("a feature that does not exist yet is refused by its name", async () => {
    const options = connection();
    const token = { audience: "x", tokenType: "JWT-SVID" } as const;
    const refusals: [RegExp, () => Promise<unknown>][] = [
      [/volume/i, () => sdk.Volume.create("data", options)],
      [/volume/i, () => sdk.Volume.list(options)],
      [/volume/i, () => sdk.Sandbox.create("base", { ...options, volumeMounts: { "/data": "data" } })],
      [/secret/i, () => sdk.Secret.create("name", "value", options as never)],
      [/iam/i, () => sdk.Sandbox.create("base", { ...options, iam: { tokens: { a: token } } })],
      [/template 'mcp-gateway' not found/, () => sdk.Sandbox.create({ ...options, mcp: { duckduckgo: {} } } as never)],
      [/template 'desktop' not found/, () => sdk.Sandbox.create("desktop", options)],
    ];
    for (const [name, refused] of refusals) expect(String(await failure(refused()))).toMatch(name);
  });
});

describe.skipIf(skipReason)("the wire of the data plane, which no SDK shows", () => {
  test("a killed sandbox drops its streams and answers 502, and the messages of the data plane are exact", async () => {
    const { url, apiKey } = sharedDaemon();
    const made = await createSandbox();
    const { sandbox } = made;
    const answer = await fetch(`${url}/sandboxes/${sandbox.sandboxId}`, { headers: { "x-api-key": apiKey } });
    const { envdAccessToken } = (await answer.json()) as { envdAccessToken: string };
    const headers = {
      "e2b-sandbox-id": sandbox.sandboxId,
      "e2b-sandbox-port": "49983",
      "x-access-token": envdAccessToken,
    };
    const composed = async (body: object) => {
      const response = await fetch(`${url}/files/compose`, {
        method: "POST",
        headers: { ...headers, "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      return [response.status, await response.json()];
    };
    await sandbox.files.write("part1", "a");
    await sandbox.files.write("part2", "b");
    expect(await composed({ source_paths: ["part1", "part2"], destination: "joined" })).toEqual([
      200,
      { path: "/home/user/joined", name: "joined", type: "file" },
    ]);
    expect([await sandbox.files.read("joined"), await sandbox.files.exists("part1")]).toEqual(["ab", false]);
    const init = await fetch(`${url}/init`, { method: "POST", headers: { ...headers, "x-access-token": "" } });
    expect([init.status, ((await init.json()) as { path: string }).path]).toEqual([404, "/init"]);
    const envs = await fetch(`${url}/envs`, { headers });
    expect(await envs.json()).toMatchObject({ E2B_SANDBOX: "true", E2B_SANDBOX_ID: sandbox.sandboxId });
    const tagged = await callUnary(url, "process.Process/SendSignal", { process: { tag: "none" }, signal: 9 }, headers);
    expect(tagged).toMatchObject({ status: 404, json: { code: "not_found" } });
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.on("error", () => {});
    socket.write(
      `GET /files?path=/dev/stdin HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: ${sandbox.sandboxId}\r\n` +
        `E2b-Sandbox-Port: 49983\r\nX-Access-Token: ${envdAccessToken}\r\n\r\n`,
    );
    await sandbox.kill();
    const gone = await fetch(`${url}/health`, { headers });
    expect([gone.status, await gone.json()]).toEqual([
      502,
      { sandboxId: sandbox.sandboxId, message: "The sandbox was not found", code: 502 },
    ]);
    socket.destroy();
    await closed;
  });
});
