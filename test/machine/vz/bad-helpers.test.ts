/** Helpers that misbehave in every way a program can. The driver names the fault, and nothing of them is left. */
import { chmod, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findProcessesIn } from "../../../src/machine/processes.ts";
import { VzDriver } from "../../../src/machine/vz/driver.ts";
import { newShortFolder } from "../../support/short-folder.ts";

let root = "";
beforeEach(async () => {
  root = await newShortFolder();
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** A helper whose answer to a line is `answer(request, socket)`, in JavaScript. */
const serving = (answer: string) => `
  require("net").createServer((socket) => {
    socket.on("error", () => {});
    let rest = "";
    socket.on("data", (chunk) => {
      const lines = (rest + chunk).split("\\n");
      rest = lines.pop();
      for (const line of lines) { const request = JSON.parse(line); ${answer} }
    });
  }).listen(process.argv[2] + "control.sock");`;

const hello = `{ id: request.id, ok: true, result: { version: 1, helperVersion: "0", framework: "simulated", pid: 1,
  state: "new", host: { hostId: "h", osBuild: "b" },
  capabilities: { machine: { supported: true }, memorySnapshot: { supported: false, reason: "test" } } } }`;
const say = (value: string) => `socket.write(JSON.stringify(${value}) + "\\n");`;
/** Says hello properly and follows events, and then `answer`s. */
const polite = (answer: string) =>
  serving(`if (request.op === "hello") { ${say(hello)} }
    else if (request.op === "events") { ${say("{ id: request.id, ok: true, result: {} }")} } else { ${answer} }`);

async function install(script: string): Promise<string> {
  const path = join(root, "helper");
  await writeFile(path, `#!${process.execPath}\n${script}`);
  await chmod(path, 0o755);
  return path;
}

async function open(script: string): Promise<VzDriver> {
  const helper = await install(script);
  const folders = { machinesFolder: join(root, "m"), cacheFolder: join(root, "c") };
  const guest = { kernel: "/k", initramfs: "/i", baseDisk: "/d" };
  return VzDriver.open({ ...folders, ...guest, helper, log: pino({ level: "silent" }) });
}

async function expectNothingLeft(): Promise<void> {
  expect(await readdir(join(root, "m"))).toEqual([]);
  expect(findProcessesIn(join(root, "m"), "vm", "node")).toEqual([]);
}

describe("a helper that is asked what it can do", () => {
  test.each([
    ["ends at once, with a reason", `console.error("no entitlement"); process.exit(3)`, /exit code 3.*no entitlement/],
    ["sends garbage", serving(`socket.write("garbage\\n");`), /not JSON/],
    [
      "answers with another shape",
      serving(say("{ id: request.id, ok: true, result: { version: 1 } }")),
      /something else/,
    ],
    ["sends half a message and hangs up", serving(`socket.end('{"id":1,"ok":tr');`), /closed the connection/],
    ["sends a line without an end", serving(`socket.write("x".repeat(2 << 20));`), /longer than/],
    ["never listens", "setInterval(() => {}, 1000);", /cannot connect/],
    ["never answers", serving(""), /did not answer hello/],
  ])("and %s", async (_, script, message) => {
    await expect(open(script)).rejects.toMatchObject({
      code: "machine_failed",
      message: expect.stringMatching(message),
    });
    await expectNothingLeft();
  });

  test("and speaks another version is named as that, with what to do", async () => {
    const refusal = `{ id: request.id, ok: false, error: { code: "unsupported_version", message: "version 2, not 1" } }`;
    await expect(open(serving(say(refusal)))).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringMatching(/version 2, not 1.*build-helper/),
    });
    await expectNothingLeft();
  });

  test("and is not there", async () => {
    await mkdir(join(root, "m"));
    const log = pino({ level: "silent" });
    const options = {
      machinesFolder: join(root, "m"),
      cacheFolder: root,
      kernel: "/k",
      initramfs: "/i",
      baseDisk: "/d",
      log,
    };
    await expect(VzDriver.open({ ...options, helper: join(root, "none") })).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("build-helper"),
    });
  });
});

describe("a helper that is asked to start a machine", () => {
  const boot = async (script: string, signal?: AbortSignal) => {
    const driver = await open(script);
    const shape = { vcpuCount: 1, memoryMiB: 64, diskMiB: 1 };
    return driver.boot({ sessionId: "x", shape, kernel: "/k", initramfs: "/i", baseDisk: "/d" }, signal);
  };

  test.each([
    ["dies", "process.exit(1);", /closed the connection/],
    [
      "refuses",
      say(
        `{ id: request.id, ok: false, error: { code: "framework", message: "no", domain: "VZErrorDomain", number: 2 } }`,
      ),
      /no \(VZErrorDomain 2\)/,
    ],
    [
      "answers somebody else, then with garbage",
      `${say("{ id: 999, ok: true, result: {} }")} socket.write("[]\\n");`,
      /no message/,
    ],
    [
      "answers late, with a lie",
      `setTimeout(() => { ${say("{ id: request.id, ok: true, result: { macAddress: 5 } }")} }, 200);`,
      /something else/,
    ],
  ])("and %s", async (_, answer, message) => {
    await expect(boot(polite(answer))).rejects.toMatchObject({
      code: "machine_failed",
      message: expect.stringMatching(message),
    });
    await expectNothingLeft();
  });

  test("and hangs is ended when the caller gives up", async () => {
    const giveUp = new AbortController();
    const hangs = polite(`require("fs").writeFileSync(process.argv[2] + "asked", "");`);
    const refused = expect(boot(hangs, giveUp.signal)).rejects.toThrow(/abort/i);
    await expect.poll(() => readdir(join(root, "m", "x"))).toContain("asked");
    giveUp.abort();
    await refused;
    await expectNothingLeft();
  });
});

test("a state folder whose socket paths would be too long is refused before anything is made", async () => {
  const long = join(root, "x".repeat(100));
  const log = pino({ level: "silent" });
  const options = {
    machinesFolder: long,
    cacheFolder: root,
    helper: "/h",
    kernel: "/k",
    initramfs: "/i",
    baseDisk: "/d",
    log,
  };
  await expect(VzDriver.open(options)).rejects.toMatchObject({ code: "invalid_argument" });
  expect(await readdir(root)).toEqual([]);
});
