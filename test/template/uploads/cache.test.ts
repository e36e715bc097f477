import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { expect, onTestFinished, test, vi } from "vitest";
import { maxUploadBytes, UploadCache } from "../../../src/template/uploads/cache.ts";
import { ManualClock } from "../../support/fakes/manual-clock.ts";

const hash = "a1".repeat(32);

async function open() {
  const folder = await mkdtemp(join(tmpdir(), "firkin-uploads-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const clock = new ManualClock();
  return { folder, clock, cache: await UploadCache.open({ folder, secret: "s", clock }) };
}

test("an archive is present after all of it has come", async () => {
  const { cache, folder } = await open();
  expect(await cache.has(hash)).toBe(false);
  await expect(cache.mustHave(hash, "src")).rejects.toThrow("the files of COPY 'src' were not uploaded");
  await cache.receive(hash, Readable.from([Buffer.from("abc"), Buffer.from("def")]), 6);
  expect(await cache.has(hash)).toBe(true);
  expect(await readFile(cache.pathOf(hash), "utf8")).toBe("abcdef");
  expect(await readdir(folder)).toEqual([hash]);
});

test("an upload that is short, long or breaks leaves nothing", async () => {
  const { cache, folder } = await open();
  const broken = Readable.from(
    (async function* () {
      yield Buffer.from("abc");
      throw new Error("connection lost");
    })(),
  );
  const code = { code: "invalid_argument" };
  await expect(cache.receive(hash, broken, 6)).rejects.toMatchObject({
    ...code,
    message: /incomplete: connection lost/,
  });
  await expect(cache.receive(hash, Readable.from([Buffer.from("abc")]), 6)).rejects.toThrow("3 of 6 bytes came");
  await expect(cache.receive(hash, Readable.from([Buffer.from("abc")]), 2)).rejects.toThrow("3 of 2 bytes came");
  await expect(cache.receive(hash, Readable.from([]), maxUploadBytes + 1)).rejects.toThrow("too large");
  expect(await readdir(folder)).toEqual([]);
});

test("partial archives that an earlier daemon left are removed", async () => {
  const { folder, clock } = await open();
  await writeFile(join(folder, `${hash}.x.part`), "half");
  await writeFile(join(folder, hash), "whole");
  await UploadCache.open({ folder, secret: "s", clock });
  expect(await readdir(folder)).toEqual([hash]);
});

test("a link is good for its hash, for an hour, from this daemon", async () => {
  const { cache, clock, folder } = await open();
  const token = cache.token(hash);
  cache.checkToken(hash, token);
  const refusal = "the upload link is not valid or has expired";
  expect(() => cache.checkToken("b2".repeat(32), token)).toThrow(refusal);
  expect(() => new UploadCache({ folder, secret: "other", clock }).checkToken(hash, token)).toThrow(refusal);
  for (const wrong of ["", ".", "x.y", `9${token}`, token.slice(0, -1)]) {
    expect(() => cache.checkToken(hash, wrong)).toThrow(refusal);
  }
  await clock.advance(3_600_001);
  expect(() => cache.checkToken(hash, token)).toThrow(refusal);
});

test("only a hash names an archive", async () => {
  const { cache } = await open();
  for (const wrong of ["", "..", "A1".repeat(32), `${hash}0`, "../".repeat(21)]) {
    expect(() => cache.pathOf(wrong)).toThrow("Invalid files hash");
  }
});

/** Two daemons that share a cache folder, with a ledger each. */
async function openTwo() {
  const { folder: shared, clock } = await open();
  const openFor = (own: string, needed: readonly string[] = []) =>
    UploadCache.openIn(shared, { own, needed, secret: own, clock });
  return { shared, clock, openFor, first: await openFor("first") };
}

test("a daemon that starts on a shared cache leaves the uploads of the others alone", async () => {
  const { first, openFor } = await openTwo();
  const body = new PassThrough();
  const upload = first.receive(hash, body, 6);
  body.write("abc");
  await vi.waitFor(async () => expect(await readdir(dirname(first.pathOf(hash)))).toHaveLength(1));
  await openFor("second");
  body.end("def");
  await upload;
  expect(await readFile(first.pathOf(hash), "utf8")).toBe("abcdef");
});

test("a daemon takes nothing from what clients of another daemon uploaded, whatever hash they name", async () => {
  const { first, openFor } = await openTwo();
  await first.receive(hash, Readable.from([Buffer.from("planted")]), 7);
  const second = await openFor("second");
  expect(await second.has(hash)).toBe(false);
  await second.receive(hash, Readable.from([Buffer.from("own")]), 3);
  expect(await readFile(first.pathOf(hash), "utf8")).toBe("planted");
  expect(await readFile(second.pathOf(hash), "utf8")).toBe("own");
});

test("archives of an earlier version are taken over by the ledger that needs them, and can be collected", async () => {
  const { shared, openFor } = await openTwo();
  const unneeded = "b2".repeat(32);
  for (const name of [hash, unneeded]) await writeFile(join(shared, name), name);
  const second = await openFor("second", [hash, "c3".repeat(32)]);
  expect(await readFile(second.pathOf(hash), "utf8")).toBe(hash);
  expect(await second.has(unneeded)).toBe(false);
  const listed = (await second.list()).map(({ name }) => name).sort();
  expect(listed).toEqual([join(shared, hash), join(shared, unneeded), second.pathOf(hash)].sort());
  // It has links, which a second start finds.
  await openFor("second", [hash]);
});
