/** The initramfs archive, read back field by field as the kernel does. */
import { expect, test } from "vitest";
import { cpioArchive } from "../../scripts/setup/cpio.mjs";

interface ArchiveRecord {
  readonly path: string;
  readonly mode: number;
  readonly device: readonly number[];
  readonly data: string;
}

function readArchive(archive: Buffer): ArchiveRecord[] {
  const records: ArchiveRecord[] = [];
  for (let at = 0; at < archive.length; ) {
    expect(archive.toString("latin1", at, at + 6)).toBe("070701");
    const field = (index: number) =>
      Number.parseInt(archive.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const [size, nameLength] = [field(6), field(11)];
    const path = archive.toString("utf8", at + 110, at + 110 + nameLength - 1);
    const dataAt = (at + 110 + nameLength + 3) & ~3;
    records.push({
      path,
      mode: field(1),
      device: [field(9), field(10)],
      data: archive.toString("utf8", dataAt, dataAt + size),
    });
    at = (dataAt + size + 3) & ~3;
  }
  return records;
}

test("folders, files and devices are read back as they were written, every record aligned", () => {
  const archive = cpioArchive([
    { path: "dev", mode: 0o755 },
    { path: "dev/console", mode: 0o600, device: [5, 1] },
    { path: "init", mode: 0o755, data: Buffer.from("agent") },
    { path: "empty", mode: 0o644, data: Buffer.alloc(0) },
  ]);
  expect(readArchive(archive)).toEqual([
    { path: "dev", mode: 0o40755, device: [0, 0], data: "" },
    { path: "dev/console", mode: 0o20600, device: [5, 1], data: "" },
    { path: "init", mode: 0o100755, device: [0, 0], data: "agent" },
    { path: "empty", mode: 0o100644, device: [0, 0], data: "" },
    { path: "TRAILER!!!", mode: 0, device: [0, 0], data: "" },
  ]);
});

test("the same content gives the same bytes", () => {
  const entries = [{ path: "init", mode: 0o755, data: Buffer.from("agent") }];
  expect(cpioArchive(entries)).toEqual(cpioArchive(entries));
});
