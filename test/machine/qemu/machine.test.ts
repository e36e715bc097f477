import { expect, test } from "vitest";
import { resolveMachine } from "../../../src/machine/qemu/machine.ts";

const machine = { deviceSet: 1, cpuModel: "Haswell-noTSX", vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 };
const sha256 = "ab".repeat(32);
const image = { name: "base-aa.ext4", sizeBytes: 1, sha256 };
const images = { find: async ({ name }: { name: string }) => `/cache/${name}` };

test("a machine of format 2 finds its base disk by the content, one of format 1 by the path", async () => {
  const newer = { machine: { ...machine, baseDisk: sha256 }, parents: [image] };
  expect(await resolveMachine(newer, images)).toEqual({ ...machine, baseDisk: "/cache/base-aa.ext4" });
  const earlier = { machine: { ...machine, baseDisk: "/old/base.ext4" }, parents: [{ path: "/old/base.ext4" }] };
  expect(await resolveMachine(earlier, images)).toEqual({ ...machine, baseDisk: "/old/base.ext4" });
});

test.each([
  ["a base disk that is no parent", { machine: { ...machine, baseDisk: "cd".repeat(32) }, parents: [image] }],
  ["a relative path", { machine: { ...machine, baseDisk: "base.ext4" }, parents: [image] }],
  ["another device set", { machine: { ...machine, deviceSet: 2, baseDisk: sha256 }, parents: [image] }],
])("a machine with %s is refused", async (_, manifest) => {
  await expect(resolveMachine(manifest, images)).rejects.toThrow("a machine this version cannot build");
});
