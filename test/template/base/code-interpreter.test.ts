/** When template code-interpreter-v1 is made, over the fake engine, and what a client hears meanwhile. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { findTemplate } from "../../../src/ledger/templates.ts";
import { CodeInterpreterTemplate, codeInterpreterAlias } from "../../../src/template/base/code-interpreter.ts";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

type Wanted = "background" | "on-demand" | "off";
const signal = new AbortController().signal;

interface Setup {
  readonly template: CodeInterpreterTemplate;
  /** How often the disk was made. */
  readonly made: () => number;
}

function open(daemon: FakeDaemon, wanted: Wanted, makeDisk?: () => Promise<void>): Setup {
  const { deps, folder } = daemon;
  const cacheDir = join(folder, "cache");
  let made = 0;
  const template = new CodeInterpreterTemplate({
    ...deps,
    cacheDir,
    wanted,
    admitDisk: async () => {},
    recordSample: () => {},
    makeDisk: async (onLine) => {
      onLine("  … root disk");
      await makeDisk?.();
      made++;
      await mkdir(join(cacheDir, "assets"), { recursive: true });
      await writeFile(join(cacheDir, "assets/code-interpreter.json"), '{"formatVersion":1,"disk":"/disk"}');
    },
  });
  return { template, made: () => made };
}

function refusalOf({ template }: Setup): DomainError {
  try {
    template.refuseUnmade(codeInterpreterAlias);
  } catch (error) {
    if (error instanceof DomainError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

test("the first who asks begins the making, and hears how far it is until the template is there", async () => {
  await using daemon = await FakeDaemon.open();
  let during: DomainError | undefined;
  const setup = open(daemon, "on-demand", async () => {
    during = refusalOf(setup);
  });
  setup.template.refuseUnmade("base");
  await setup.template.maintain(signal);
  expect([setup.made(), findTemplate(daemon.deps.ledger, codeInterpreterAlias)]).toEqual([0, undefined]);
  expect(refusalOf(setup)).toMatchObject({ code: "not_ready", details: { retryAfterSeconds: 10 } });
  await setup.template.maintain(signal);
  expect(during?.message).toMatch(/being made, for 0 s now \(… root disk\)\. To see how far .* template add/);
  expect(setup.made()).toBe(1);
  setup.template.refuseUnmade(codeInterpreterAlias);
  expect(findTemplate(daemon.deps.ledger, codeInterpreterAlias)).toMatchObject({
    shape: { vcpuCount: 2, memoryMiB: 2048 },
    public: true,
  });
  await setup.template.maintain(signal);
  expect(setup.made()).toBe(1);
});

test("a failure is told once, and the next who asks begins anew", async () => {
  await using daemon = await FakeDaemon.open();
  const problems = [new Error("no index answers")];
  const setup = open(daemon, "on-demand", async () => {
    const problem = problems.pop();
    if (problem) throw problem;
  });
  expect(refusalOf(setup).code).toBe("not_ready");
  await expect(setup.template.maintain(signal)).rejects.toThrow("no index answers");
  await setup.template.maintain(signal);
  expect(setup.made()).toBe(0);
  expect(refusalOf(setup)).toMatchObject({
    code: "machine_failed",
    message: expect.stringContaining("no index answers"),
  });
  expect(refusalOf(setup).code).toBe("not_ready");
  await setup.template.maintain(signal);
  expect(setup.made()).toBe(1);
});

test("the settings make it in the background, or not at all", async () => {
  await using daemon = await FakeDaemon.open();
  const off = open(daemon, "off");
  expect(refusalOf(off)).toMatchObject({
    code: "not_found",
    message: expect.stringContaining("--code-interpreter off"),
  });
  await off.template.maintain(signal);
  expect(off.made()).toBe(0);
  const background = open(daemon, "background");
  await background.template.maintain(signal);
  expect(background.made()).toBe(1);
});
