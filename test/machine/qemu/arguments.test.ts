import { expect, test } from "vitest";
import { checkSocketPaths, type Launch, qemuArguments } from "../../../src/machine/qemu/arguments.ts";

const boot: Launch = {
  folder: "/state/m/s1",
  machine: {
    deviceSet: 1,
    cpuModel: "Haswell-noTSX",
    vcpuCount: 2,
    memoryMiB: 512,
    diskMiB: 8192,
    baseDisk: "/cache/base.ext4",
  },
  acceleration: "tcg",
  memory: { path: "/state/m/s1/memory.img", shared: true },
  layers: ["/state/m/s1/disk.qcow2"],
  networkFd: 3,
  start: { kind: "boot", kernel: "/k", initramfs: "/i", commandLine: "console=ttyS0 a=b,c" },
};
const restore: Launch = {
  ...boot,
  memory: { ...boot.memory, shared: false },
  start: { kind: "restore", fd: 3 },
  networkFd: 4,
};

/** Values of one option, in order. */
function values(args: readonly string[], name: string): string[] {
  return args.flatMap((arg, index) => (arg === name ? [args[index + 1] ?? ""] : []));
}

test("boot and restore have the same devices in the same order", () => {
  const [first, second] = [qemuArguments(boot), qemuArguments(restore)];
  for (const name of ["-device", "-machine", "-cpu", "-smp", "-m", "-global", "-serial"]) {
    expect(values(second, name)).toEqual(values(first, name));
  }
});

test("a restore maps memory privately and loads devices from the descriptor, without a kernel", () => {
  const args = qemuArguments(restore);
  expect(values(args, "-object")).toEqual([
    "memory-backend-file,id=ram,size=512M,mem-path=/state/m/s1/memory.img,share=off",
  ]);
  expect(values(args, "-incoming")).toEqual(["fd:3"]);
  const deferred = qemuArguments({ ...restore, start: { kind: "restore", fd: 3, deferred: true } });
  expect(values(deferred, "-incoming")).toEqual(["defer"]);
  expect(args).not.toContain("-kernel");
  expect(values(args, "-netdev")).toEqual(["stream,id=net,server=off,addr.type=fd,addr.str=4"]);
});

test("a boot shares its memory file and takes the command line as it is", () => {
  const args = qemuArguments(boot);
  expect(values(args, "-object")[0]).toContain("share=on");
  expect(values(args, "-append")).toEqual(["console=ttyS0 a=b,c"]);
  expect(args).not.toContain("-incoming");
});

test("device state alone is a loadable stream", () => {
  const args = qemuArguments(restore);
  expect(values(args, "-machine")[0]).toContain("suppress-vmdesc=on");
  expect(values(args, "-global")).toContain("migration.send-configuration=off");
});

test("disk layers are chained from the base up, only the top one writable", () => {
  const args = qemuArguments({ ...restore, layers: ["/v/disk.qcow2", "/v/layer-2.qcow2", "/v/layer-1.qcow2"] });
  const nodes = values(args, "-blockdev").map((node) =>
    Object.fromEntries(node.split(",").map((pair) => pair.split("="))),
  );
  expect(nodes.map((node) => [node["node-name"], node.backing, node["read-only"], node["file.filename"]])).toEqual([
    ["base", undefined, "on", "/cache/base.ext4"],
    ["disk2", "base", "on", "/v/layer-1.qcow2"],
    ["disk1", "disk2", "on", "/v/layer-2.qcow2"],
    ["disk0", "disk1", undefined, "/v/disk.qcow2"],
  ]);
  expect(values(args, "-device")).toContain("virtio-blk-device,drive=disk0,werror=stop,rerror=stop");
});

test.each([
  ["tcg", "tcg,thread=multi,tb-size=32"],
  ["kvm", "kvm"],
] as const)("under %s QEMU accelerates with %s", (acceleration, expected) => {
  expect(values(qemuArguments({ ...boot, acceleration }), "-accel")).toEqual([expected]);
});

test("a comma in a path cannot add an option", () => {
  const args = qemuArguments({ ...restore, folder: "/s,server=off", memory: { path: "/s,share=on", shared: false } });
  expect(values(args, "-object")[0]).toContain("mem-path=/s,,share=on,share=off");
  expect(values(args, "-chardev").join(" ")).toContain("path=/s,,server=off/run/agent.sock,");
});

test("a folder too deep for sockets is refused with the limit", () => {
  checkSocketPaths(`/${"a".repeat(91)}`);
  expect(() => checkSocketPaths(`/${"a".repeat(92)}`)).toThrow("108 bytes and Linux allows 107");
  expect(() => checkSocketPaths(`/${"ä".repeat(60)}`)).toThrow("too long");
});
