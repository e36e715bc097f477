/** E2B's command line against a real daemon and real machines, with nothing but environment variables. */
import { describe, expect, test } from "vitest";
import { openCli } from "../support/clients/e2b-cli.ts";
import { api, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { post } from "../support/daemon/requests.ts";

interface LogLine {
  readonly message: string;
  readonly event?: string;
}

function jsonLines<T>(text: string): T[] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as T);
}

describe.skipIf(skipReason)("the command line", () => {
  test("a sandbox is created, used, paused, resumed and killed", async () => {
    await using cli = await openCli();
    const sandbox = (...args: readonly string[]) => cli.run(["sandbox", ...args]);

    const created = await sandbox("create", "base", "--detach", "--timeout", "300", "--lifecycle.ontimeout", "pause");
    expect(created).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^i[a-z0-9]{20}\n$/) });
    const id = created.stdout.trim();
    await using _ = { [Symbol.asyncDispose]: async () => void (await api(`/sandboxes/${id}`, { method: "DELETE" })) };

    const info = JSON.parse((await sandbox("info", id, "--format", "json")).stdout);
    expect(info).toMatchObject({ sandboxId: id, name: "base", state: "running", allowInternetAccess: true });
    expect(info).toMatchObject({ lifecycle: { onTimeout: "pause", autoResume: false }, cpuCount: 2, memoryMB: 512 });
    expect((await sandbox("info", id)).stdout).toContain(`Sandbox info for ${id}`);

    const listed = JSON.parse((await sandbox("list", "--template", "base", "--format", "json")).stdout);
    expect(listed).toContainEqual(expect.objectContaining({ sandboxId: id, state: "running" }));
    expect((await sandbox("list")).stdout).toContain(id);

    expect(await sandbox("exec", "-e", "A=x", id, "echo", "hi $A")).toEqual({
      exitCode: 0,
      stdout: "hi $A\n",
      stderr: "",
    });
    const failing = await sandbox("exec", "-u", "root", "-c", "/tmp", id, "sh", "-c", "pwd; id -un >&2; exit 3");
    expect(failing).toEqual({ exitCode: 3, stdout: "/tmp\n", stderr: "root\nexit status 3\n" });
    const piped = await cli.run(["sandbox", "exec", id, "wc", "-c"], { input: "12345" });
    expect(piped).toMatchObject({ exitCode: 0, stdout: "5\n" });

    const terminal = await cli.runInTerminal(["sandbox", "connect", id], ["echo sum=$((40+2))", "exit"]);
    expect(terminal).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/sum=42[\s\S]*Closing terminal connection/),
    });

    const logged = async () =>
      jsonLines<LogLine>((await sandbox("logs", id, "--format", "json")).stdout).map(({ message }) => message);
    expect(await logged()).toEqual(
      expect.arrayContaining([
        "The sandbox was created",
        expect.stringMatching(/^Process \d+ started: \/bin\/bash -l -c "echo 'hi \$A'"$/),
        "hi $A",
        expect.stringMatching(/^Process \d+ exited with 3$/),
      ]),
    );
    expect((await sandbox("logs", id, "--level", "warn")).stdout).toMatch(/exited with 3/);
    await expect
      .poll(async () => jsonLines((await sandbox("metrics", id, "--format", "json")).stdout).at(-1), {
        timeout: 60_000,
      })
      .toMatchObject({ cpuCount: 2, memTotal: expect.any(Number), diskTotal: expect.any(Number) });

    expect((await sandbox("pause", id)).stdout).toContain("has been paused");
    expect((await sandbox("pause", id)).stdout).toContain("is already paused");
    const paused = JSON.parse((await sandbox("list", "--state", "paused", "--format", "json")).stdout);
    expect(paused).toContainEqual(expect.objectContaining({ sandboxId: id, state: "paused" }));
    expect((await logged()).at(-1)).toBe("The sandbox was paused");
    expect(await sandbox("resume", id)).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("resumed") });
    expect((await sandbox("exec", id, "echo", "again")).stdout).toBe("again\n");

    const followed = cli.run(["sandbox", "logs", id, "--follow"]);
    expect(await sandbox("kill", id)).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining("has been killed"),
    });
    expect((await followed).stdout).toMatch(/again[\s\S]*Stopped printing logs/);
    expect(await sandbox("kill", id)).toMatchObject({ stderr: expect.stringContaining("wasn't found") });
    expect((await logged()).at(-1)).toBe("The sandbox was killed");
    expect(await sandbox("info", id)).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("wasn't found") });
  });

  test("create opens a terminal, and the sandbox ends soon after the terminal", async () => {
    await using cli = await openCli();
    const { exitCode, stdout } = await cli.runInTerminal(
      ["sandbox", "create", "base"],
      ["echo user=$(id -un)", "exit"],
    );
    expect({ exitCode, stdout }).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("user=user") });
    const id = /sandbox ID (i[a-z0-9]{20})/.exec(stdout)?.[1];
    await expect.poll(async () => (await api(`/sandboxes/${id}`)).status).toBe(404);
  });

  test("snapshots and templates are listed", async () => {
    await using cli = await openCli();
    const id = (await cli.run(["sandbox", "create", "--detach"])).stdout.trim();
    try {
      const snapshot = await cli.run(["sandbox", "snapshot", "create", id]);
      expect(snapshot).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/[a-z0-9]{20}:default/) });
      const snapshotId = /[a-z0-9]{20}:default/.exec(snapshot.stdout)?.[0] ?? "";
      expect((await cli.run(["sandbox", "snapshot", "list"])).stdout).toContain(snapshotId);
      expect((await cli.run(["template", "list"])).stdout).not.toContain(snapshotId.split(":")[0]);
      expect(await cli.run(["sandbox", "snapshot", "delete", snapshotId])).toMatchObject({ exitCode: 0 });
      expect((await cli.run(["sandbox", "snapshot", "list"])).stdout).not.toContain(snapshotId);
    } finally {
      await cli.run(["sandbox", "kill", id]);
    }
    expect((await cli.run(["template", "list"])).stdout).toMatch(/base/);
    const templates = JSON.parse((await cli.run(["template", "list", "--format", "json"])).stdout);
    expect(templates).toContainEqual(expect.objectContaining({ aliases: ["base"], cpuCount: 2, buildStatus: "ready" }));
  });

  test("a wrong key is refused, and a further key is accepted until it is deleted", async () => {
    await using cli = await openCli();
    const wrong = await cli.run(["sandbox", "list"], { env: { E2B_API_KEY: `e2b_${"0".repeat(40)}` } });
    expect(wrong).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/Unauthorized|Invalid API key/) });
    const made = await post(sharedDaemon(), "/api-keys", { name: "cli" });
    const { id, key } = (await made.json()) as { id: string; key: string };
    const list = () => cli.run(["sandbox", "list", "--format", "json"], { env: { E2B_API_KEY: key } });
    expect(await list()).toMatchObject({ exitCode: 0 });
    expect((await api(`/api-keys/${id}`, { method: "DELETE" })).status).toBe(204);
    expect(await list()).toMatchObject({ exitCode: 1 });
  });
});
