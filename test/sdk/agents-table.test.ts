/** What agents meet in a sandbox of `base`, seen through the unmodified SDKs in JavaScript and Python. */

import { fileURLToPath } from "node:url";
import * as sdk from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { installPythonSdk, scriptArguments } from "../support/clients/python-sdk.ts";
import { connection, createSandbox, type Sandbox, skipReason } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { titleOf } from "../support/skipped-title.ts";

/** Programs that are there for the default user. */
const programs = [
  ..."bc bzip2 curl dig file fusermount3 g++ gcc gh git gpg jq lsof make nano nc node npm npx patch ping pip python".split(
    " ",
  ),
  ..."python3 rg rsync sqlite3 strace tmux tree unzip vim wget xxd xz yarn zip zstd /sbin/modprobe".split(" "),
];
const missingPrograms = `for name in ${programs.join(" ")}; do command -v $name >/dev/null || echo $name; done`;
const installsGlobally =
  "mkdir -p /tmp/tool && cd /tmp/tool && " +
  `echo '{"name":"tool-of-ours","version":"1.0.0","bin":{"tool-of-ours":"t.js"}}' >package.json && ` +
  "printf '#!/usr/bin/env node\\nconsole.log(\"ran\")\\n' >t.js && chmod +x t.js && " +
  "npm install --global --silent --offline . && tool-of-ours";

/** What takes a Linux kernel: gVisor has no modules, no bridges and no loop devices. */
const linuxRows: Readonly<Record<string, readonly [command: string, output: string | RegExp]>> =
  testedEngine === "gvisor"
    ? {}
    : {
        "no module is loaded that nobody asked for": [
          "cut -d' ' -f1 /proc/modules | grep -cE 'bridge|veth|loop|squashfs|nf_'",
          "0",
        ],
        "networks are made of bridges and pairs": [
          "sudo ip link add br0 type bridge && sudo ip link add v0 type veth peer v1 && sudo ip link set v0 master br0 && ls /sys/class/net/br0/brif",
          "v0",
        ],
        "a file is mounted through a loop device": [
          "truncate -s 8M /tmp/disk && /sbin/mke2fs -q /tmp/disk && sudo mount /tmp/disk /mnt && stat -f -c %T /mnt && sudo umount /mnt",
          "ext2/ext3",
        ],
        "modules are loaded by the kernel and by modprobe": [
          "sudo mount -t squashfs /dev/zero /mnt 2>/dev/null; grep -c squashfs /proc/filesystems; " +
            "sudo modprobe -a nf_tables nft_masq xt_MASQUERADE wireguard && grep -cE '^(nf_tables|nft_masq|xt_MASQUERADE|wireguard) ' /proc/modules",
          "1\n4",
        ],
      };

/** The rows of the table: what an agent runs, and its output. */
const table: Readonly<Record<string, readonly [command: string, output: string | RegExp]>> = {
  "text is counted in characters": [
    `x=äöü; echo $LANG \${#x} $(printf äöü | wc -m) $(printf 'äö' | grep -o . | wc -l) $(printf äöü | sed 's/./-/g')`,
    "C.UTF-8 3 3 2 ---",
  ],
  "Python and Node.js print any text": [`python3 -c 'print("ä")'; node -p '"ä"'`, "ä\nä"],
  "a login's variables reach commands": [
    "echo TOOL_HOME=/opt/tool | sudo tee -a /etc/environment >/dev/null; env -i true; echo set",
    "set",
  ],
  "… from the next command on": ["echo $TOOL_HOME", "/opt/tool"],
  "the user's own programs are found": [
    "printf '#!/bin/sh\\necho mine\\n' >~/.local/bin/mine; chmod +x ~/.local/bin/mine; mine; sudo -i sh -c 'echo $PATH'",
    /^mine\n\/root\/\.local\/bin:/,
  ],
  "/usr/local and /code can be written to": ["touch /usr/local/bin/x /usr/local/lib/x /code/x && echo yes", "yes"],
  "pip installs for everybody": [
    `python3 -c 'import os, sysconfig as s
for kind in ("purelib", "scripts"): print(os.access(s.get_path(kind, "posix_local"), os.W_OK))'`,
    "True\nTrue",
  ],
  "su asks for no password": ["su -c whoami </dev/null; su user -c whoami </dev/null", "root\nuser"],
  "every user opens /dev/fuse": ["exec 3<>/dev/fuse && echo yes", "yes"],
  "there is room for open files": ["ulimit -Sn; ulimit -Hn", "65536\n524288"],
  "the usual programs are there": [missingPrograms, ""],
  "some of them at work": [
    `cd /tmp && echo '{"a":[1]}' >j && jq -c .a j && rg -o a j && zip -q j.zip j && unzip -p j.zip | xxd -p | head -c 4 &&
      echo && sqlite3 :memory: 'select 2' && echo 1+2 | bc && zstd -qc j | zstd -dc && file -b j`,
    '[1]\na\n7b22\n2\n3\n{"a":[1]}\nJSON text data',
  ],
  "Node.js is a release with long-term support": ["node -p 'Boolean(process.release.lts)'", "true"],
  "the shell of a terminal starts no process": [
    "strace -f -e trace=process -o /tmp/calls bash -i -l -c true 2>/dev/null; grep -cE '(fork|clone)' /tmp/calls",
    "0",
  ],
  "a C program is compiled": [
    `cd /tmp && printf '#include <stdio.h>\\nint main(void){puts("compiled");}' >a.c && gcc a.c -o a && ./a`,
    "compiled",
  ],
  ...linuxRows,
};

const python = skipReason ? { missing: skipReason } : await installPythonSdk();
const noPython = "missing" in python && python.missing;

function check(seen: Readonly<Record<string, unknown>>): void {
  for (const [name, [, output]] of Object.entries(table)) {
    if (typeof output === "string") expect.soft(seen[name], name).toBe(output);
    else expect.soft(seen[name], name).toMatch(output);
  }
}

describe.skipIf(skipReason)("an agent in a sandbox", { timeout: 450_000 }, () => {
  let made: Awaited<ReturnType<typeof createSandbox>>;
  let sandbox: Sandbox;

  beforeAll(async () => {
    made = await createSandbox({ timeoutMs: 1_800_000 });
    sandbox = made.sandbox;
  });

  afterAll(() => made[Symbol.asyncDispose]());

  const output = async (command: string): Promise<string> => {
    const { stdout, stderr } = await sandbox.commands.run(command, { timeoutMs: 200_000 }).catch((error) => error);
    return `${stdout}${stderr}`.trim();
  };

  test("meets what the table says, in JavaScript", async () => {
    const seen: Record<string, string> = {};
    for (const [name, [command]] of Object.entries(table)) seen[name] = await output(command);
    check(seen);
  });

  test.skipIf(noPython)(titleOf("meets what the table says, in Python", noPython), async () => {
    if ("missing" in python) return;
    const script = fileURLToPath(new URL("fixtures/agents_table.py", import.meta.url));
    const commands = Object.fromEntries(Object.entries(table).map(([name, [command]]) => [name, command]));
    const printed = await runUserProgram(python.python, scriptArguments(script, JSON.stringify(commands)));
    const lines = printed.trim().split("\n");
    const seen = Object.fromEntries(lines.map((line) => JSON.parse(line)).map(({ step, value }) => [step, value]));
    check(seen);
    expect([seen["before the kill"], seen["after the kill"]]).toEqual(["3", "0"]);
  });

  test("installs programs for everybody with npm", async () => {
    const { stdout } = await sandbox.commands.run(installsGlobally, { timeoutMs: 400_000 });
    expect(stdout).toBe("ran\n");
  });

  test("ends all that a command started by kill() and by a time-out, and its port is free", async () => {
    const server = "python3 -m http.server 8765 >/dev/null 2>&1 & setsid sleep 876 & echo up; wait";
    const isUp = "until ss -ltn 2>/dev/null | grep -q :8765; do sleep 0.1; done; pgrep -fxc 'sleep 876'";
    const handle = await sandbox.commands.run(server, { background: true });
    expect(await output(isUp)).toBe("1");
    expect(await handle.kill()).toBe(true);
    const isLeft =
      "ss -ltn 2>/dev/null | grep -c :8765; pgrep -fc 'http.serve[r]'; pgrep -fxc 'sleep 876'; pkill -fx 'sleep 876'";
    expect(await output(isLeft)).toBe("0\n0\n1");
    const timedOut = await sandbox.commands.run(server, { timeoutMs: 4_000 }).catch((error) => error);
    expect(timedOut.name).toBe("TimeoutError");
    await expect
      .poll(() => output("ss -ltn 2>/dev/null | grep -c :8765"), { timeout: 60_000, interval: 500 })
      .toBe("0");
  });

  test("has the same language in a terminal", async () => {
    const seen: string[] = [];
    const onData = (bytes: Uint8Array) => void seen.push(Buffer.from(bytes).toString());
    const terminal = await sandbox.pty.create({ cols: 80, rows: 24, timeoutMs: 0, onData });
    await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode("x=äöü; echo $LANG-$(printf $x | wc -m)\n"));
    await expect.poll(() => seen.join(""), { timeout: 60_000 }).toContain("C.UTF-8-3");
    await terminal.kill();
  });

  test("asks for an MCP gateway: the SDK starts what the template has, and fails in its own words", async () => {
    const asked = sdk.Sandbox.create("base", { ...connection(), mcp: { duckduckgo: {} } } as never);
    await expect(asked).rejects.toThrow(/^Failed to start MCP gateway: .*mcp-gateway: command not found/);
  });
});
