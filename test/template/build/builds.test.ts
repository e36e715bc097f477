/**
 * The builds of templates over the fake engine. Their guest is the real agent as a process of this host, so that steps
 * touch `folder` only.
 */
import { randomUUID } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { usage } from "../../../src/ledger/capacity.ts";
import { listSnapshots } from "../../../src/ledger/snapshots.ts";
import { findBuildJob, insertBuildJob } from "../../../src/ledger/template-builds.ts";
import { findTemplate, insertTemplate, resolveTemplate } from "../../../src/ledger/templates.ts";
import { readSnapshot } from "../../../src/machine/snapshot-files.ts";
import type { BuildSpec, BuildStep } from "../../../src/template/build/spec.ts";
import {
  type FakeTemplates,
  type FakeTemplatesOptions,
  openFakeTemplates,
  shape,
  writeBaseSnapshot,
} from "../../support/fakes/fake-templates.ts";
import { localAgent } from "../../support/guest/local-agent.ts";

async function open(options: FakeTemplatesOptions = {}): Promise<FakeTemplates> {
  const fake = openFakeTemplates({ guest: { kind: "agent", command: localAgent() }, ...options });
  await writeBaseSnapshot(fake);
  return fake;
}

const run = (command: string, user = ""): BuildStep => ({ type: "RUN", command, user });

/** Requests a build of template `made`, and starts it. */
async function start(
  { ledger, builds }: FakeTemplates,
  steps: readonly BuildStep[],
  more: Partial<BuildSpec> = {},
  minFreeDiskMiB: number | null = null,
  memoryMiB: number | null = null,
) {
  const template =
    findTemplate(ledger, "made") ?? insertTemplate(ledger, { id: "t", aliases: ["made"], shape, public: false });
  const id = randomUUID();
  const asked = { vcpuCount: null, memoryMiB, minFreeDiskMiB, tags: ["default"] };
  const job = insertBuildJob(ledger, { id, templateId: template.id, ...asked });
  const from = { kind: "template", name: "base", tag: undefined } as const;
  await builds.start(job, { from, steps, startCommand: undefined, readyCommand: undefined, ...more });
  return id;
}

async function build(fake: FakeTemplates, ...args: Parameters<typeof start> extends [unknown, ...infer R] ? R : never) {
  const id = await start(fake, ...args);
  await fake.builds.finished(id);
  const job = findBuildJob(fake.ledger, id);
  if (!job) throw new Error("the build is gone");
  return { job, messages: fake.builds.log(id).map(({ message }) => message) };
}

/** The machines, reservations and snapshots of builds: none after a build has ended. */
async function held({ ledger, host, snapshotsFolder, folder }: FakeTemplates) {
  return {
    machines: host.machines.size,
    links: host.openLinks,
    reserved: usage(ledger).active.sandboxes,
    machineFolders: (await readdir(join(folder, "machines")).catch(() => [])).length,
    snapshots: (await readdir(snapshotsFolder)).length - 1,
    making: listSnapshots(ledger, ["making"]).length,
  };
}
const nothing = { machines: 0, links: 0, reserved: 0, machineFolders: 0, snapshots: 0, making: 0 };

test("a build that has to boot, which takes longer, says so", async () => {
  await using fake = await open();
  const { messages } = await build(fake, [], {}, null, shape.memoryMiB * 2);
  const booting = `booting with ${shape.vcpuCount} vCPUs and ${shape.memoryMiB * 2} MiB, because the snapshot has another shape`;
  expect(messages.slice(0, 3)).toEqual([expect.anything(), expect.stringContaining("[base] FROM base"), booting]);
});

test("steps run in order, and the template has the values that they set", async () => {
  await using fake = await open();
  const workdir = join(fake.folder, "work dir");
  const { job, messages } = await build(fake, [
    {
      type: "ENV",
      pairs: [
        ["A", "one"],
        ["NOT_RUN", "`id` $(id)"],
      ],
    },
    {
      type: "ENV",
      pairs: [
        ["B", "$A-$A"],
        ["SAME", 'a "quoted" \\ text'],
      ],
    },
    { type: "WORKDIR", path: workdir },
    run('echo "$B in $(pwd)"; echo bad >&2; printf "$NOT_RUN" > out'),
  ]);
  expect(job).toMatchObject({ state: "ready", reason: null });
  expect(messages).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^\[base\] FROM base \[[0-9a-f]{64}\]$/),
      expect.stringContaining("[builder 1/4] ENV A one NOT_RUN `id` $(id) ["),
      expect.stringContaining(`[builder 3/4] WORKDIR ${workdir} [`),
      `[builder 4/4] [stdout]: one-one in ${workdir}`,
      "[builder 4/4] [stderr]: bad",
      expect.stringMatching(/^Build finished, took \d+s$/),
    ]),
  );
  expect(await readFile(join(workdir, "out"), "utf8")).toBe("`id` $(id)");
  const made = resolveTemplate(fake.ledger, "made");
  expect(made).toMatchObject({ buildId: job.id, template: { shape }, snapshot: { state: "ready", kind: "template" } });
  expect(made.defaults).toEqual({
    envs: { A: "one", NOT_RUN: "`id` $(id)", B: "one-one", SAME: 'a "quoted" \\ text' },
    user: "root",
    workdir,
  });
  expect(await readFile(join(fake.folder, "marker"), "utf8")).toContain(`BUILD_ID=${job.id}`);
  expect(fake.spans).toEqual(["snapshot_save", "cold_template_build"]);
  expect(await held(fake)).toEqual({ ...nothing, snapshots: 1 });
});

test.each([
  ["dashes, as in a PEM", "-----BEGIN KEY-----\nabc+/=\n-----END KEY-----"],
  ["quotes", `it's "quoted"`],
  ["backslashes", "a\\b\\\\c\\n"],
  ["several lines", "one\n two\n\n"],
  ["what would be a command", "`id` $(id) ; id"],
  ["an equals sign", "a=b=c"],
])("a variable keeps %s, for the steps and for the template", async (_, value) => {
  await using fake = await open();
  const out = join(fake.folder, "out");
  const env: BuildStep = { type: "ENV", pairs: [["V", value]] };
  const { job } = await build(fake, [env, run(`printf %s "$V" > ${out}`)]);
  expect(job).toMatchObject({ state: "ready" });
  expect(await readFile(out, "utf8")).toBe(value);
  expect(resolveTemplate(fake.ledger, "made").defaults.envs).toEqual({ V: value });
});

test("a failing command is named with its step and the end of its output", async () => {
  await using fake = await open();
  const { job } = await build(fake, [run("true"), run("echo because; exit 7"), run("echo never")]);
  expect(job.state).toBe("error");
  expect(job.reason).toMatchObject({
    message: "failed to run command 'echo because; exit 7': exit status 7",
    step: "2",
  });
  expect(job.reason?.logEntries.map(({ message }) => message)).toEqual([
    expect.stringMatching(/^\[builder 2\/3\] RUN echo because; exit 7 \[[0-9a-f]{64}\]$/),
    "[builder 2/3] [stdout]: because",
  ]);
  expect(() => resolveTemplate(fake.ledger, "made")).toThrow("tag 'default' does not exist");
  expect(await held(fake)).toEqual(nothing);
});

test("an unknown user is worded as clients expect", async () => {
  await using fake = await open();
  const { job } = await build(fake, [run("whoami", "root123")]);
  expect(job.reason?.message).toBe(
    "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
  );
});

test.each([
  ["restore", "base"],
  ["openGuestLink", "base"],
  ["pause", "finalize"],
  ["saveSnapshot", "finalize"],
] as const)("a machine that fails at %s leaves nothing", async (step, named) => {
  await using fake = await open();
  fake.host.arrange(step, { error: new Error("no luck") });
  const { job } = await build(fake, [run("true")]);
  expect(job).toMatchObject({ state: "error", reason: { message: "no luck", step: named } });
  expect(await held(fake)).toEqual(nothing);
});

test("a machine that does not end at once keeps its capacity until it is gone", async () => {
  await using fake = await open();
  fake.host.arrange("terminate", { error: new Error("stuck") });
  const { job } = await build(fake, [run("true")]);
  expect(job.state).toBe("ready");
  expect(fake.host.calls.filter((call) => call === "terminate")).toHaveLength(2);
  expect(await held(fake)).toEqual({ ...nothing, snapshots: 1 });
});

test("a published build stays whole when nothing else can be cleared up", async () => {
  await using fake = await open();
  vi.spyOn(fake.builds, "collect").mockRejectedValueOnce(new Error("a folder is busy"));
  const { job } = await build(fake, [run("true")]);
  expect(job.state).toBe("ready");
  await readSnapshot(resolveTemplate(fake.ledger, "made").snapshot.folder);
});

test("a failure that cannot be written down is written as soon as there is room", async () => {
  await using fake = await open();
  const id = await start(fake, [run("false")]);
  const full = new DomainError("disk_pressure", "no space is left");
  vi.spyOn(fake.ledger, "writeDurably").mockImplementationOnce(() => {
    throw full;
  });
  await fake.builds.finished(id);
  expect(findBuildJob(fake.ledger, id)).toMatchObject({ state: "error", reason: { step: "1" } });
  expect(await held(fake)).toEqual(nothing);
});

test("a daemon that stops cancels its builds", async () => {
  await using fake = await open();
  const id = await start(fake, [run("echo on; sleep 600")]);
  await expect.poll(() => fake.builds.log(id).map(({ message }) => message)).toContain("[builder 1/1] [stdout]: on");
  await fake.builds.close();
  expect(findBuildJob(fake.ledger, id)).toMatchObject({
    state: "error",
    reason: { message: "the build was cancelled: the daemon stopped", step: "1" },
  });
  expect(await held(fake)).toEqual(nothing);
  await expect(start(fake, [])).rejects.toMatchObject({ code: "not_ready" });
});

test.each([
  ["that is cancelled", (fake: FakeTemplates, id: string) => fake.templates.cancelBuild("t", id)],
  ["whose template is deleted", ({ templates }: FakeTemplates) => templates.remove("made")],
])("a build %s ends its machine and leaves nothing", async (what, end) => {
  await using fake = await open();
  const id = await start(fake, [run("echo on; sleep 600")]);
  await expect.poll(() => fake.builds.log(id).map(({ message }) => message)).toContain("[builder 1/1] [stdout]: on");
  expect(await held(fake)).toMatchObject({ machines: 1, reserved: 1 });
  await end(fake, id);
  expect(await held(fake)).toEqual(nothing);
  if (what === "that is cancelled") {
    expect(findBuildJob(fake.ledger, id)).toMatchObject({
      state: "error",
      reason: { message: "the build was cancelled", step: "1" },
    });
    expect((await build(fake, [run("true")])).job.state).toBe("ready");
  } else expect(findTemplate(fake.ledger, "made")).toBeUndefined();
});

test("a build that waits can be cancelled, and one that has ended stays as it is", async () => {
  await using fake = await open();
  const { job } = await build(fake, [run("true")]);
  await fake.templates.cancelBuild("t", job.id);
  expect(findBuildJob(fake.ledger, job.id)?.state).toBe("ready");
  const asked = { name: "made", tags: [], vcpuCount: null, memoryMiB: null, minFreeDiskMiB: null };
  const { buildId } = fake.templates.requestBuild(asked);
  await fake.templates.cancelBuild("t", buildId);
  expect(findBuildJob(fake.ledger, buildId)).toMatchObject({ state: "error", reason: { message: /cancelled/ } });
  await expect(fake.templates.cancelBuild("t", randomUUID())).rejects.toThrow("not found");
});

test("a build of a dead daemon has failed for the next one, and nothing is left of it", async () => {
  await using fake = await open();
  const id = await start(fake, [run("echo on; sleep 600")]);
  await expect.poll(() => fake.builds.log(id).map(({ message }) => message)).toContain("[builder 1/1] [stdout]: on");
  expect(await held(fake)).toMatchObject({ machines: 1, reserved: 1 });
  await fake.reopen().recover();
  expect(findBuildJob(fake.ledger, id)).toMatchObject({ state: "error", reason: { message: /the daemon died/ } });
  expect(await held(fake)).toMatchObject({ machines: 0, reserved: 0, machineFolders: 0, making: 0 });
});

test("a machine of a dead build that does not go holds up no start, and keeps its capacity until it does", async () => {
  await using fake = await open();
  const id = await start(fake, [run("echo on; sleep 600")]);
  await expect.poll(() => fake.builds.log(id).map(({ message }) => message)).toContain("[builder 1/1] [stdout]: on");
  fake.host.arrange("discard", { error: new DomainError("machine_failed", "it will not go") });
  const builds = fake.reopen();
  await builds.recover();
  expect(findBuildJob(fake.ledger, id)).toMatchObject({ state: "building" });
  expect(await held(fake)).toMatchObject({ machines: 1, reserved: 1 });
  await expect.poll(() => findBuildJob(fake.ledger, id)).toMatchObject({ state: "error" });
  expect(await held(fake)).toMatchObject({ machines: 0, reserved: 0, machineFolders: 0 });

  fake.host.arrange("discard", { error: new DomainError("machine_failed", "nor will this") });
  const next = await start(fake, [run("sleep 600")]);
  await expect.poll(() => findBuildJob(fake.ledger, next)?.machine).toBeTruthy();
  const stopping = fake.reopen();
  await stopping.recover();
  await stopping.close();
  expect(findBuildJob(fake.ledger, next)).toMatchObject({ state: "building" });
  await fake.reopen().recover();
  expect(await held(fake)).toMatchObject({ machines: 0, reserved: 0 });
});

test("the start command runs on while the ready command is tried", async () => {
  await using fake = await open();
  const flag = join(fake.folder, "flag");
  const startCommand = `echo starting; sleep 0.5; touch ${flag}; sleep 600`;
  const { job, messages } = await build(fake, [], { startCommand, readyCommand: `test -f ${flag}` });
  expect(job.state).toBe("ready");
  expect(messages).toEqual(
    expect.arrayContaining([
      "[start] [stdout]: starting",
      `Waiting for template to be ready: test -f ${flag}`,
      "Template is ready",
    ]),
  );
});

test("a start command that fails fails the build", async () => {
  await using fake = await open();
  const { job } = await build(fake, [], { startCommand: "echo no port; exit 1", readyCommand: "sleep 0.3; false" });
  expect(job.reason).toMatchObject({
    step: "finalize",
    message: /^failed to run command 'echo no port.*exit status 1$/,
  });
  expect(await held(fake)).toEqual(nothing);
});

test("a build fails when it leaves less free disk than the client asked for", async () => {
  await using fake = await open();
  expect((await build(fake, [], {}, 1)).job.state).toBe("ready");
  const { job } = await build(fake, [], {}, 2 ** 31 - 1);
  expect(job.reason).toMatchObject({
    step: "finalize",
    message: /^minFreeDiskMb asks for 2147483647 MiB, and the steps leave \d+ MiB of the disk free$/,
  });
  expect(await held(fake)).toEqual({ ...nothing, snapshots: 1 });
});

test("a newer build takes the tag, and the snapshot that nothing needs is removed", async () => {
  await using fake = await open();
  const first = await build(fake, [run("true")]);
  const second = await build(fake, [run("true")]);
  expect(resolveTemplate(fake.ledger, "made").buildId).toBe(second.job.id);
  expect(first.job.state).toBe("ready");
  expect(await held(fake)).toEqual({ ...nothing, snapshots: 1 });
});

test("a request that can be judged at once is refused before anything starts", async () => {
  await using fake = await open({ budgets: { vcpuCount: 1, memoryMiB: 1, diskMiB: 1, sandboxes: 0 } });
  await expect(start(fake, [])).rejects.toMatchObject({ code: "capacity_exhausted" });
  await expect(start(fake, [], { from: { kind: "template", name: "nobody", tag: undefined } })).rejects.toMatchObject({
    code: "not_found",
    message: "template 'nobody' not found",
  });
  const filesHash = "0".repeat(64);
  const copy: BuildStep = { type: "COPY", source: "a", destination: "b", owner: "", mode: "", filesHash };
  await expect(start(fake, [copy])).rejects.toMatchObject({ code: "failed_precondition", message: /not uploaded/ });
  expect(fake.host.calls).toEqual([]);
});
