/** `firkin build` on real machines: stages whose files come together, the cache, and a person who gives up. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ControlApi } from "../../src/commands/api.ts";
import { runTemplateCommand } from "../../src/commands/templates.ts";
import { DomainError } from "../../src/errors.ts";
import { api, connection, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { reservations } from "../support/daemon/requests.ts";
import { busyboxLayer } from "../support/images/families.ts";
import { makeImage } from "../support/images/make-image.ts";
import { TestRegistry } from "../support/images/registry.ts";

describe.skipIf(skipReason)("templates from Dockerfiles, by the command line", { timeout: 600_000 }, () => {
  let registry: TestRegistry;
  let folder: string;
  let image: string;

  beforeAll(async () => {
    registry = await TestRegistry.open();
    folder = await mkdtemp(join(tmpdir(), "firkin-dockerfile-"));
    image = registry.add("busybox", makeImage({ layers: [busyboxLayer()] }));
  });

  afterAll(async () => {
    await registry[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  async function build(dockerfile: string, signal = new AbortController().signal, say = (_line: string) => {}) {
    await writeFile(join(folder, "Dockerfile"), dockerfile);
    const { url, apiKey } = sharedDaemon();
    const lines: string[] = [];
    const hear = (line: string) => {
      lines.push(line);
      say(line);
    };
    await runTemplateCommand("build", [folder, "-t", "staged"], new ControlApi(url, apiKey), hear, signal);
    return lines;
  }

  const names = async () => {
    const rows = (await (await api("/templates")).json()) as { names: string[] }[];
    return rows.flatMap((row) => row.names);
  };

  test("files come from stages and from images, and a second time from the cache", async () => {
    const data = registry.add("data", makeImage({ layers: [[{ path: "data/file.txt", content: "of an image\n" }]] }));
    const dockerfile = `FROM ${image} AS base
RUN mkdir -p /out/bin && echo base >/out/base
FROM base AS build
WORKDIR /out/bin
RUN (echo '#!/bin/sh'; echo 'echo built on $(cat /srv/base)') >tool && chmod 755 tool && echo x >other
FROM ${image} AS unused
RUN exit 1
FROM ${image}
COPY --from=build /out/bin/* /usr/local/bin/
COPY --from=build --chown=root --chmod=0640 /out/base /srv/base
COPY --from=${data} /data /srv/data
RUN /usr/local/bin/tool && cat /srv/data/file.txt
`;
    const first = (await build(dockerfile)).join("\n");
    expect(first).toMatch(/\[build\] \[builder 4\/\d+\] WORKDIR/);
    expect(first).not.toContain("exit 1");
    expect(first).toContain("[stdout]: built on base");
    expect(first).toContain("[stdout]: of an image");
    const again = (await build(dockerfile)).filter((line) => / RUN /.test(line));
    expect(again.filter((line) => !line.includes("CACHED"))).toEqual([]);
    expect(await names()).toEqual(expect.arrayContaining(["base", "staged"]));
    expect((await names()).filter((name) => name.startsWith("stage-"))).toEqual([]);
    const sandbox = await Sandbox.create("staged", { ...connection(), timeoutMs: 600_000 });
    try {
      const { stdout } = await sandbox.commands.run("stat -c '%U %a' /srv/base; ls /usr/local/bin", { user: "root" });
      expect(stdout).toBe("root 640\nother\ntool\n");
    } finally {
      await sandbox.kill();
    }
    expect((await api("/templates/staged", { method: "DELETE" })).status).toBe(204);
  });

  test("a person who gives up leaves no machine, in a stage neither", async () => {
    for (const last of [
      "RUN echo begun; sleep 600",
      `RUN echo begun; sleep 600\nFROM ${image}\nCOPY --from=0 /etc/x /x`,
    ]) {
      const givingUp = new AbortController();
      const building = build(`FROM ${image}\n${last}\n`, givingUp.signal, (line) => {
        if (line.endsWith("[stdout]: begun")) givingUp.abort(new DomainError("cancelled", "cancelled by SIGINT"));
      });
      await expect(building).rejects.toThrow("cancelled by SIGINT");
      expect(await reservations(sharedDaemon())).toBe(0);
    }
    expect((await names()).filter((name) => name.startsWith("stage-"))).toEqual([]);
    expect((await api("/templates/staged", { method: "DELETE" })).status).toBe(204);
  });
});
