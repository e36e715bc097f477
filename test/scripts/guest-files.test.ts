/** The files for arm64 guests, as the set-up has made them on this host; and a job in such a guest, emulated. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { currentAgent } from "../../scripts/setup/agent.mjs";
import { currentGuestPackages } from "../../scripts/setup/debian-lock.mjs";
import { qemuBoot } from "../../scripts/setup/guest-boot.mjs";
import { runGuestJob } from "../../scripts/setup/guest-job.mjs";
import { makeInitramfs } from "../../scripts/setup/initramfs.mjs";
import { currentKernel, kernelImage } from "../../scripts/setup/kernel.mjs";
import { storageRoots } from "../../scripts/setup/roots.mjs";

const image = Buffer.alloc(128);
image.write("ARM\u0064", 56, "latin1");

test("an Image is taken as it is or unpacked, and anything else is refused", () => {
  expect(kernelImage(image)).toEqual(image);
  expect(kernelImage(gzipSync(image))).toEqual(image);
  expect(() => kernelImage(Buffer.alloc(128))).toThrow(/no arm64 Image/);
});

const roots = storageRoots();
const [kernel, agent] = [currentKernel(roots, "arm64"), currentAgent(roots, "arm64")];
const packages = currentGuestPackages(roots, "arm64");
const title = "the files for arm64 guests";

describe.skipIf(!kernel || !agent || !packages)(kernel ? title : `${title} (skipped: run npm test once)`, () => {
  if (!kernel || !agent || !packages) return;
  const cache = mkdtempSync("/var/tmp/fk-");
  const own = { ...storageRoots({ FIRKIN_CACHE_DIR: cache, FIRKIN_STATE_DIR: cache }), downloads: roots.downloads };
  afterAll(() => rmSync(cache, { recursive: true }));
  const lines: string[] = [];
  const context = { signal: new AbortController().signal, onLine: (line: string) => void lines.push(line) };

  test("are an uncompressed kernel, a static arm64 agent, and an initramfs with modules for vsock", async () => {
    expect(readFileSync(kernel.vmlinuz).toString("latin1", 56, 60)).toBe("ARM\u0064");
    const program = readFileSync(agent.agent);
    expect(program.toString("latin1", 0, 4)).toBe("\u007fELF");
    // EM_AARCH64; and no program header that names an interpreter.
    expect(program.readUInt16LE(18)).toBe(183);
    expect(program.includes("/lib/ld-linux")).toBe(false);
    const initramfs = readFileSync(await makeInitramfs(own, { modules: kernel.modules, agent: agent.agent }));
    expect(initramfs.includes(program)).toBe(true);
    const list = /(\/lib\/modules\/[a-z_-]+\.ko\n)+/.exec(initramfs.toString("latin1"))?.[0].split("\n") ?? [];
    const at = (name: string) => list.indexOf(`/lib/modules/${name}.ko`);
    expect(at("virtio_pci")).toBeGreaterThan(-1);
    expect(at("vsock")).toBeGreaterThan(-1);
    expect(at("vmw_vsock_virtio_transport")).toBeGreaterThan(at("vsock"));
  });

  test("a guest job makes a file system on its disk and an outbox; one that fails quotes its log", async () => {
    const job = (name: string, script: string) => {
      writeFileSync(join(cache, name), script);
      const files = { "data/word": join(cache, "word") };
      return { script: join(cache, name), tools: packages.tools, files, diskMiB: 64 };
    };
    writeFileSync(join(cache, "word"), "arm");
    const host = { roots: own, kernel, boot: qemuBoot("arm64") };
    const disk = join(cache, "disk");
    const good = [
      `mke2fs -q -t ext4 -L job /dev/vda "\${FIRKIN_DISK_MIB}M"`,
      "cp data/word /outbox/; uname -m >>/outbox/word",
    ].join("\n");
    let word = "";
    await runGuestJob(host, job("good", good), disk, context, (outbox) => {
      word = readFileSync(join(outbox, "word"), "utf8");
    });
    expect(word).toBe("armaarch64\n");
    expect(statSync(disk).size).toBe(64 * 2 ** 20);
    const superblock = readFileSync(disk).subarray(1024, 2048);
    expect(superblock.readUInt16LE(56)).toBe(0xef53);
    expect(superblock.toString("latin1", 120, 123)).toBe("job");
    const bad = runGuestJob(host, job("bad", "echo no such thing; exit 3"), disk, context, () => {});
    await expect(bad).rejects.toThrow(/failed in the guest[\s\S]*no such thing/);
  }, 300_000);
});
