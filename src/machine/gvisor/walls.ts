/** The walls around a machine of gVisor: those of its box, and for its network's processes those of the jail. */
import type { Wall } from "../driver.ts";

/**
 * What stands between a sandbox process that its guest has taken over and this host. The box of a machine is made with
 * all of it, or the machine does not start.
 * @param sharedBecause why all machines have the same users; undefined when each has its own
 * @param jailWalls those of the network's processes; the host's packet rules and control groups are the same for both
 */
export function describeWalls(sharedBecause: string | undefined, jailWalls: readonly Wall[]): Wall[] {
  const stands = (name: string, detail: string): Wall => ({ name, stands: true, detail });
  const user = "a sandbox process runs as users of its own machine, who are nobody on the host";
  const sharedUser =
    "a sandbox process is nobody on the host, but all machines have the same users, and base disks are copied";
  return [
    sharedBecause === undefined
      ? stands("user", user)
      : { name: "user", stands: false, detail: `${sharedUser}: ${sharedBecause}` },
    stands("files", "a sandbox process sees its own machine's files and runsc"),
    stands("processes", "a sandbox process sees no process but its own"),
    stands("network", "a sandbox process has one interface, whose other end is its packet guard"),
    stands("capabilities", "a sandbox process has capabilities in a user namespace of its own only"),
    stands("calls", "gVisor's own list of system calls, and before it a list of those that no box needs"),
    stands("limits", "no core dumps, killed before the daemon when memory runs out"),
    ...jailWalls.filter(({ name }) => name === "addresses" || name === "groups"),
  ];
}
