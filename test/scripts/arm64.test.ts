/** The guest's files for Apple's framework, as set-up made them on this host. */
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { currentArm64Assets, kernelImage } from "../../scripts/setup/arm64.mjs";
import { storageRoots } from "../../scripts/setup/roots.mjs";

const image = Buffer.alloc(128);
image.write("ARM\u0064", 56, "latin1");

test("an Image is taken as it is or unpacked, and anything else is refused", () => {
  expect(kernelImage(image)).toEqual(image);
  expect(kernelImage(gzipSync(image))).toEqual(image);
  expect(() => kernelImage(Buffer.alloc(128))).toThrow(/no arm64 Image/);
});

const assets = currentArm64Assets(storageRoots());
const title = assets ? "the files for arm64 guests" : "the files for arm64 guests (skipped: run npm test once)";

describe.skipIf(!assets)(title, () => {
  test("are an uncompressed kernel, a static arm64 agent, and an initramfs with it and the modules for vsock", () => {
    if (!assets) return;
    expect(readFileSync(assets.kernel).toString("latin1", 56, 60)).toBe("ARM\u0064");
    const agent = readFileSync(assets.agent);
    expect(agent.toString("latin1", 0, 4)).toBe("\u007fELF");
    // EM_AARCH64; and no program header that names an interpreter.
    expect(agent.readUInt16LE(18)).toBe(183);
    expect(agent.includes("/lib/ld-linux")).toBe(false);
    const initramfs = readFileSync(assets.initramfs);
    expect(initramfs.includes(agent)).toBe(true);
    const list = /(\/lib\/modules\/[a-z_-]+\.ko\n)+/.exec(initramfs.toString("latin1"))?.[0].split("\n") ?? [];
    const at = (name: string) => list.indexOf(`/lib/modules/${name}.ko`);
    expect(at("virtio_pci")).toBeGreaterThan(-1);
    expect(at("vsock")).toBeGreaterThan(-1);
    expect(at("vmw_vsock_virtio_transport")).toBeGreaterThan(at("vsock"));
  });
});
