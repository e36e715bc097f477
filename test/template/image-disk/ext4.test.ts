/** The disk of an image as e2fsprogs sees it: nothing wrong with it, and in it what the layers say. */
import { expect, test } from "vitest";
import { diskOf } from "../../support/images/disk.ts";
import { makeTar } from "../../support/images/tar.ts";

test("every kind of entry is on the disk, with its owner, mode and attributes", async () => {
  const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
  await using disk = await diskOf([
    makeTar([
      { path: "bin/" },
      { path: "bin/ping", content: "x", mode: 0o4755, pax: { "SCHILY.xattr.security.capability": capability } },
      { path: "bin/other", type: "1", target: "bin/ping" },
      { path: "far", content: "y", pax: { uid: "70000", gid: "80000", mtime: "5000000000.5" } },
      { path: "short", type: "2", target: "bin/ping" },
      { path: "long", type: "2", target: "a/".repeat(60) },
      { path: "null", type: "3", device: [1, 3], mode: 0o666 },
      { path: "disk", type: "4", device: [259, 1000] },
      { path: "pipe", type: "6" },
      { path: "many", content: "z", pax: { "SCHILY.xattr.user.a": "b".repeat(300), "SCHILY.xattr.user.cc": "dd" } },
      { path: "empty", content: "" },
      { path: `${"n".repeat(255)}`, content: "long name" },
    ]),
  ]);
  await disk.check();
  expect(await disk.ask("stat /bin/ping")).toMatch(/Mode:\s+04755.*Links: 2/s);
  expect(await disk.ask("ea_get -x /bin/ping security.capability")).toContain("01 00 00 02 00 04");
  expect(await disk.ask("stat /far")).toMatch(/User:\s+70000\s+Group:\s+80000/);
  expect(await disk.ask("stat /far")).toContain("Jun 11 08:53:20 2128");
  expect(await disk.ask("stat /short")).toContain('Fast link dest: "bin/ping"');
  expect(await disk.ask("cat /long")).toBe("a/".repeat(60));
  expect(await disk.ask("stat /null")).toContain("Device major/minor number: 01:03");
  expect(await disk.ask("stat /disk")).toMatch(/major\/minor number: 259:1000/);
  expect(await disk.ask("stat /pipe")).toContain("Type: FIFO");
  expect(await disk.ask("ea_get /many user.a")).toContain("b".repeat(300));
  expect(await disk.ask("ea_get /many user.cc")).toContain("dd");
  expect(await disk.ask("cat /bin/other")).toBe("x");
  expect(await disk.ask(`cat /${"n".repeat(255)}`)).toBe("long name");
});

test("a folder of many names and a file of many blocks are whole", async () => {
  const names = Array.from({ length: 3000 }, (_, index) => ({
    path: `d/${index}-${"x".repeat(40)}`,
    content: `${index}`,
  }));
  const large = Buffer.alloc(5 * 2 ** 20 + 17, "0123456789abcdef");
  await using disk = await diskOf([makeTar([...names, { path: "large", content: large }])]);
  await disk.check();
  expect((await disk.ask("ls -l /d")).trim().split("\n").length).toBeGreaterThanOrEqual(3002);
  expect(await disk.ask(`cat /d/2999-${"x".repeat(40)}`)).toBe("2999");
  expect((await disk.ask("cat /large")).length).toBe(large.length);
  expect(disk.made.diskMiB % 128).toBe(0);
});

test("the disk of an image without layers has what every sandbox needs", async () => {
  await using disk = await diskOf([]);
  await disk.check();
  expect(await disk.ask("cat /etc/passwd")).toBe(
    "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\n",
  );
});
