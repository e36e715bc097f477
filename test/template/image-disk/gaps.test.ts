/** What an image lacks and gets, as it is on its disk. */
import { expect, test } from "vitest";
import { diskOf } from "../../support/images/disk.ts";
import { makeTar, type TarFile } from "../../support/images/tar.ts";

const bash = { content: Buffer.from("our bash") };
const busybox = { content: Buffer.from("our busybox"), applets: ["cat", "ls", "[", "../evil"] };
const gaps = { bash, busybox, authorities: "our authorities" };

const diskWith = (files: readonly TarFile[], more = {}) => diskOf([makeTar(files)], { gaps, ...more });

test("an empty image gets a shell, programs, an account and authorities", async () => {
  await using disk = await diskWith([]);
  await disk.check();
  expect(disk.made.filled).toEqual([
    "bash",
    "sh and the programs of busybox",
    "certificate authorities",
    "the account user, 1000",
  ]);
  expect(await disk.ask("cat /bin/bash")).toBe("our bash");
  expect(await disk.ask("stat /bin/bash")).toContain("Mode:  0755");
  for (const applet of ["cat", "ls", "["]) expect(await disk.ask(`stat /bin/${applet}`)).toContain('"busybox"');
  expect(await disk.ask("cat /etc/ssl/certs/ca-certificates.crt")).toBe("our authorities");
  expect(await disk.ask("stat /home/user")).toMatch(/User:\s+1000\s+Group:\s+1000/);
  expect(await disk.ask("stat /tmp")).toContain("Mode:  01777");
  expect(await disk.ask("stat /code")).toContain("Mode:  0777");
});

test("what an image has stays, also behind a merged /usr", async () => {
  await using disk = await diskWith([
    { path: "usr/bin/bash", content: "its bash" },
    { path: "usr/bin/dash", content: "its sh" },
    { path: "usr/bin/sh", type: "2", target: "dash" },
    { path: "bin", type: "2", target: "usr/bin" },
    { path: "etc/pki/tls/certs/ca-bundle.crt", content: "its authorities" },
    { path: "etc/hostname", content: "its name" },
  ]);
  await disk.check();
  expect(disk.made.filled).toEqual(["the account user, 1000"]);
  expect(await disk.ask("cat /usr/bin/bash")).toBe("its bash");
  expect(await disk.ask("stat /etc/ssl/certs/ca-certificates.crt")).toContain('"/etc/pki/tls/certs/ca-bundle.crt"');
  expect(await disk.ask("cat /etc/hostname")).toBe("firkin\n");
});

test("the account takes the first free number, and no password; sudo makes it an administrator", async () => {
  await using disk = await diskWith([
    { path: "etc/passwd", content: "root:x:0:0:root:/root:/bin/ash\nnode:x:1000:1000::/home/node:/bin/sh\n" },
    { path: "etc/group", content: "root:x:0:\nnode:x:1000:\nsudo:x:27:other\nwheel:x:10:\n" },
    { path: "etc/shadow", content: "root:*:1::::::\nnode:!:1::::::\n", mode: 0o600 },
    { path: "etc/sudoers", content: "@includedir /etc/sudoers.d\n" },
    { path: "usr/bin/sudo", content: "sudo", mode: 0o4755 },
    { path: "etc/skel/.profile", content: "a profile" },
    { path: "etc/skel/link", type: "2", target: "/etc/shadow" },
  ]);
  await disk.check();
  expect(await disk.ask("cat /etc/passwd")).toContain("\nuser:x:1001:1001::/home/user:/bin/bash\n");
  expect(await disk.ask("cat /etc/group")).toContain("sudo:x:27:other,user\nwheel:x:10:user\nuser:x:1001:\n");
  expect(await disk.ask("cat /etc/shadow")).toBe("root::1::::::\nnode:!:1::::::\nuser::::::::\n");
  expect(await disk.ask("stat /etc/shadow")).toContain("Mode:  0600");
  expect(await disk.ask("cat /home/user/.profile")).toBe("a profile");
  expect(await disk.ask("stat /home/user/.profile")).toMatch(/User:\s+1001/);
  expect(await disk.ask("ls -p /home/user")).not.toContain("link");
  expect(await disk.ask("cat /etc/sudoers.d/user")).toContain("NOPASSWD");
  expect(await disk.ask("stat /etc/sudoers.d/user")).toContain("Mode:  0440");
});

test("an account `user` of the image is kept", async () => {
  const passwd = "root:x:0:0::/root:/bin/sh\nuser:x:77:88::/srv:/bin/zsh\n";
  await using disk = await diskWith([
    { path: "etc/passwd", content: passwd },
    { path: "srv/x", content: "x" },
  ]);
  expect(await disk.ask("cat /etc/passwd")).toBe(passwd);
  expect(await disk.ask("stat /srv/x")).toMatch(/User:\s+77\s+Group:\s+88/);
});

test("a PATH of the image is kept in login shells, whatever is in it, with the folders of shells behind it", async () => {
  await using disk = await diskWith([], { envs: { PATH: "/o'dd:$(evil):/bin" } });
  expect(await disk.ask("cat /etc/profile.d/template-path.sh")).toBe(
    "export PATH='/o'\\''dd:$(evil):/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin'\n",
  );
});

test("links in the place of our files do not lead out of them", async () => {
  await using disk = await diskWith([
    { path: "etc/resolv.conf", type: "2", target: "../run/systemd/resolve/stub-resolv.conf" },
    { path: "etc/passwd", type: "2", target: "/nowhere" },
    { path: "etc/ssl/certs/ca-certificates.crt", type: "2", target: "/nowhere" },
    { path: "usr/local/loop", type: "2", target: ".." },
  ]);
  await disk.check();
  expect(await disk.ask("stat /etc/resolv.conf")).toContain("Type: regular");
  expect(await disk.ask("cat /etc/passwd")).toContain("user:x:1000");
  expect(await disk.ask("cat /etc/ssl/certs/ca-certificates.crt")).toBe("our authorities");
});

test("an image without bash is refused where set-up made none", async () => {
  const none = { bash: undefined, busybox: undefined, authorities: "" };
  await expect(diskOf([makeTar([])], { gaps: none })).rejects.toThrow("run npx firkin setup");
  await using disk = await diskOf([makeTar([{ path: "bin/bash", content: "b" }])], { gaps: none });
  await disk.check();
});
