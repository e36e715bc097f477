/** Tests that both decoders, C and TypeScript, judge the corpus alike, and as the manifest says. */
import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { FrameDecoder } from "../../src/guest/link/frames.ts";
import { buildSanitized, sanitizedFolder } from "../support/guest/built-agent.ts";
import { frameTypes } from "../support/guest/raw-link.ts";

const folder = fileURLToPath(new URL("../corpus/frames/", import.meta.url));

interface Verdict {
  readonly file: string;
  readonly about: string;
  readonly frames: readonly { type: string; channel: number; stream: number; length: number; hash: string }[];
  readonly end: { readonly error?: string; readonly offset?: number; readonly incompleteBytes?: number };
}

const manifest: readonly Verdict[] = JSON.parse(readFileSync(`${folder}manifest.json`, "utf8"));

beforeAll(buildSanitized);

function endLine({ end }: Verdict): string {
  return end.error ? `error ${end.error} ${end.offset}` : `end ${end.incompleteBytes}`;
}

test("the manifest names every file", () => {
  const files = ["good", "bad"].flatMap((kind) => readdirSync(`${folder}${kind}`).map((name) => `${kind}/${name}`));
  expect(manifest.map(({ file }) => file).sort()).toEqual(files.sort());
});

test.each(manifest)("the agent's decoder judges $file", (verdict) => {
  const { stdout, stderr } = spawnSync(`${sanitizedFolder}firkin-frame-check`, {
    input: readFileSync(`${folder}${verdict.file}`),
    encoding: "utf8",
  });
  const expected = verdict.frames.map(
    ({ type, channel, stream, length, hash }) =>
      `${type} channel=${channel} stream=${stream} length=${length} hash=${hash}`,
  );
  expect(stderr).toBe("");
  expect(stdout.trimEnd().split("\n")).toEqual([...expected, endLine(verdict)]);
});

test.each(manifest)("the host's decoder judges $file, whole and byte by byte", (verdict) => {
  const bytes = readFileSync(`${folder}${verdict.file}`);
  for (const size of [bytes.length, 1, 4_099]) {
    const decoder = new FrameDecoder();
    const frames: object[] = [];
    const decode = () => {
      for (let at = 0; at < bytes.length; at += size) {
        for (const { type, channel, stream, payload } of decoder.decode(bytes.subarray(at, at + size))) {
          frames.push({ type: frameTypes[type], channel, stream, length: payload.length });
        }
      }
    };
    if (verdict.end.error) expect(decode).toThrow(expect.objectContaining({ code: "machine_failed" }));
    else decode();
    expect(frames).toEqual(verdict.frames.map(({ hash: _, ...frame }) => frame));
  }
});

test("garbage of every kind leaves the agent answering", () => {
  const files = manifest.map(({ file }) => `${folder}${file}`);
  const seed = String(1 + (Date.now() % 1_000_000));
  const { status, stdout, stderr } = spawnSync(`${sanitizedFolder}firkin-fuzz`, ["1500", seed, ...files], {
    encoding: "utf8",
  });
  // 77: the agent cannot be isolated here, and would run random operations on a real machine.
  expect([0, 77], `seed ${seed}\n${stdout}${stderr}`).toContain(status);
});

const PT_INTERP = 3;

/** The types of an ELF file's program headers (64 bits). */
function segmentTypes(elf: Buffer): number[] {
  const start = Number(elf.readBigUInt64LE(32));
  return Array.from({ length: elf.readUInt16LE(56) }, (_, i) => elf.readUInt32LE(start + i * elf.readUInt16LE(54)));
}

test("the released agent is static and tells its version", () => {
  execFileSync("flock", [`${sanitizedFolder}../lock`, "make", "-C", `${sanitizedFolder}../..`, "-j2"], {
    stdio: "pipe",
  });
  const program = `${sanitizedFolder}../firkin-agent`;
  expect(execFileSync(program, ["--version"], { encoding: "utf8" })).toMatch(/^\d+\.\d+\.\d+\n$/);
  expect(segmentTypes(readFileSync(program))).not.toContain(PT_INTERP);
  expect(spawnSync(program, ["--fd"]).status).toBe(2);
  expect(spawnSync(program, []).status).toBe(2);
});
