/** Files of every kind through the unmodified SDKs, on real machines. */
import { createHash, randomBytes } from "node:crypto";
import { FileNotFoundError } from "e2b";
import { describe, expect, test } from "vitest";
import { createSandbox, generations, skipReason } from "../support/clients/sdk.ts";

const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe.skipIf(skipReason)("files", () => {
  describe.each(generations)("%s", (_, sdk) => {
    test("files are written, read, listed, described, renamed and removed", async () => {
      await using made = await createSandbox({}, sdk);
      const { files } = made.sandbox;
      const written = await files.write("/home/user/a.txt", "x");
      expect(written).toMatchObject({ name: "a.txt", path: "/home/user/a.txt", type: "file" });
      expect(await files.read("a.txt")).toBe("x");
      expect((await files.list("/")).map(({ name }) => name)).toEqual(expect.arrayContaining(["home", "usr", "etc"]));
      await files.makeDir("deep/er/still");
      await files.write([
        { path: "deep/one", data: "1" },
        { path: "deep/er/two", data: "22" },
      ]);
      const tree = await files.list("deep", { depth: 3 });
      expect(tree.map(({ path }) => path)).toEqual([
        "/home/user/deep/er",
        "/home/user/deep/er/still",
        "/home/user/deep/er/two",
        "/home/user/deep/one",
      ]);
      const info = await files.getInfo("deep/er/two");
      expect(info).toMatchObject({ size: 2, mode: 0o644, permissions: "-rw-r--r--", owner: "user", group: "user" });
      await files.rename("deep/one", "elsewhere/one");
      expect(await files.exists("deep/one")).toBe(false);
      expect(await files.read("elsewhere/one")).toBe("1");
      await files.remove("deep");
      expect(await files.exists("deep")).toBe(false);
      await expect(files.read("deep/one")).rejects.toMatchObject({ name: "FileNotFoundError" });
    });
  });

  test("empty files, binary files and Unicode names arrive whole", async () => {
    await using made = await createSandbox();
    const { files } = made.sandbox;
    await files.write("empty", "");
    expect(await files.read("empty")).toBe("");
    const bytes = randomBytes(3_000_001);
    await files.write("binary", Uint8Array.from(bytes).buffer);
    expect(digest(await files.read("binary", { format: "bytes" }))).toBe(digest(bytes));
    const name = "größe ✓ 日本語 & co.txt";
    await files.write(name, "ü");
    expect(await files.read(name)).toBe("ü");
    expect((await files.list(".")).map((entry) => entry.name)).toContain(name);
  });

  test("256 MiB up and down arrive whole", { timeout: 600_000 }, async () => {
    await using made = await createSandbox({ timeoutMs: 600_000 });
    const { files, commands } = made.sandbox;
    const chunk = randomBytes(2 ** 20);
    const expected = createHash("sha256");
    let sent = 0;
    const source = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent === 256) return controller.close();
        sent += 1;
        expected.update(chunk);
        controller.enqueue(chunk);
      },
    });
    await files.write("/home/user/big", source, { requestTimeoutMs: 500_000 });
    expect((await commands.run("stat -c %s /home/user/big")).stdout).toBe(`${256 * 2 ** 20}\n`);
    const actual = createHash("sha256");
    const stream = await files.read("/home/user/big", { format: "stream", requestTimeoutMs: 500_000 });
    for await (const part of stream as unknown as AsyncIterable<Uint8Array>) actual.update(part);
    expect(actual.digest("hex")).toBe(expected.digest("hex"));
  });

  test("symbolic links are followed and permissions hold", async () => {
    await using made = await createSandbox();
    const { files, commands } = made.sandbox;
    await commands.run("echo t > target; ln -s target link; ln -s nowhere broken; chmod 600 target; mkdir -m 700 d");
    const info = await files.getInfo("link");
    expect(info).toMatchObject({ type: "file", symlinkTarget: "/home/user/target", mode: 0o600 });
    expect(await files.read("link")).toBe("t\n");
    expect((await files.list(".")).map(({ name }) => name)).not.toContain("broken");
    await expect(files.read("d")).rejects.toThrow(/is a directory/);
    await files.write("/root/secret", "s", { user: "root" });
    expect(await files.getInfo("/root/secret", { user: "root" })).toMatchObject({ owner: "root" });
    expect((await commands.run("cat /root/secret").catch((error) => error)).exitCode).toBe(1);
  });

  test("a watched folder tells what happens in it", async () => {
    await using made = await createSandbox();
    const { files } = made.sandbox;
    await files.makeDir("watched");
    const seen: string[] = [];
    const watch = await files.watchDir("watched", (event) => void seen.push(`${event.type} ${event.name}`), {
      recursive: true,
    });
    await files.write("watched/a", "1");
    await files.makeDir("watched/sub");
    await expect.poll(() => seen).toEqual(expect.arrayContaining(["create a", "write a", "create sub"]));
    await files.write("watched/sub/b", "1");
    await expect.poll(() => seen).toContain("create sub/b");
    await watch.stop();
    await expect(files.watchDir("missing", () => {})).rejects.toThrow(FileNotFoundError);
  });

  test("a file keeps its metadata, and signed URLs reach it", async () => {
    await using made = await createSandbox();
    const { sandbox } = made;
    await sandbox.files.write("m", "x", { metadata: { kind: "report" } });
    expect((await sandbox.files.getInfo("m")).metadata).toEqual({ kind: "report" });
    const upload = await sandbox.uploadUrl("up.txt");
    const form = new FormData();
    form.set("file", new Blob(["through a URL"]), "up.txt");
    expect((await fetch(upload, { method: "POST", body: form })).status).toBe(200);
    const download = await sandbox.downloadUrl("up.txt");
    expect(await (await fetch(download)).text()).toBe("through a URL");
    expect((await fetch(download.replace("signature=v1_", "signature=v1_x"))).status).toBe(401);
  });
});
