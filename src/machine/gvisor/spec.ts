/** What runsc is told of a machine: its flags, and the OCI description of the container that the machine is. */
import { guestNetwork } from "../network/network.ts";

/** Where things are in the box. */
export const inBox = {
  keeper: "/firkin-gvisor",
  runsc: "/runsc",
  agentFolder: "/agent",
  bundle: "/bundle",
  /** Checkpoints are written here. */
  image: "/image",
  /** The checkpoint that is restored. */
  restored: "/restored",
  disk: "/disk",
} as const;

export const agentName = "agent";
/** Where the guest sees the agent. */
const agentFolder = "/.firkin";

/** The container's name for runsc, which knows of one only. */
export const containerName = "m";

export const runscFlags = [
  "--root=/state",
  "--log=/state/runsc.log",
  "--platform=systrap",
  "--network=sandbox",
  // The frames go to passt, which wants them as they are sent.
  "--gso=false",
  // An overlay of gVisor's own would be a part of every checkpoint.
  "--overlay2=none",
  "--directfs=true",
  "--file-access=exclusive",
  "--net-raw",
  // For sudo.
  "--allow-suid",
  // The box has joined the groups of its machine.
  "--ignore-cgroups",
] as const;

/** A guest is root of its machine, as in a VM. They are capabilities in gVisor's kernel, none of the host's. */
const capabilities = [
  "AUDIT_CONTROL",
  "AUDIT_READ",
  "AUDIT_WRITE",
  "BLOCK_SUSPEND",
  "CHOWN",
  "DAC_OVERRIDE",
  "DAC_READ_SEARCH",
  "FOWNER",
  "FSETID",
  "IPC_LOCK",
  "IPC_OWNER",
  "KILL",
  "LEASE",
  "LINUX_IMMUTABLE",
  "MAC_ADMIN",
  "MAC_OVERRIDE",
  "MKNOD",
  "NET_ADMIN",
  "NET_BIND_SERVICE",
  "NET_BROADCAST",
  "NET_RAW",
  "SETFCAP",
  "SETGID",
  "SETPCAP",
  "SETUID",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SYS_CHROOT",
  "SYS_MODULE",
  "SYS_NICE",
  "SYS_PACCT",
  "SYS_PTRACE",
  "SYS_RAWIO",
  "SYS_RESOURCE",
  "SYS_TIME",
  "SYS_TTY_CONFIG",
  "SYSLOG",
  "WAKE_ALARM",
].map((name) => `CAP_${name}`);

const maxOpenFiles = 524_288;

const tmpfs = (destination: string, ...options: string[]) => ({
  destination,
  type: "tmpfs",
  source: "tmpfs",
  options,
});

/** The content of `config.json`. It must be the same at a start and at every restore. */
export function containerSpec() {
  return {
    ociVersion: "1.0.0",
    process: {
      user: { uid: 0, gid: 0 },
      args: [`${agentFolder}/${agentName}`, "--gvisor", guestNetwork.dns],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: [{ type: "RLIMIT_NOFILE", hard: maxOpenFiles, soft: maxOpenFiles }],
    },
    root: { path: inBox.disk },
    hostname: "firkin",
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/sys", type: "sysfs", source: "sysfs" },
      { destination: "/dev", type: "dev", source: "dev" },
      tmpfs("/dev/shm", "nosuid", "nodev", "mode=1777"),
      tmpfs("/run", "nosuid", "nodev", "mode=755"),
      // In memory: gVisor saves no machine that has a removed file of its disk open, and such files are in /tmp.
      tmpfs("/tmp", "nosuid", "nodev", "mode=1777"),
      { destination: agentFolder, type: "bind", source: inBox.agentFolder, options: ["bind", "ro"] },
    ],
    linux: {
      namespaces: [
        { type: "pid" },
        { type: "ipc" },
        { type: "uts" },
        { type: "mount" },
        // That of the keeper, which is process 1 of the box.
        { type: "network", path: "/proc/1/ns/net" },
      ],
    },
  };
}
