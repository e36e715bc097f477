/** The walls around a machine of gVisor: those of its box, and for its network's processes those of the jail. */
import type { Wall } from "../driver.ts";

/**
 * What stands between a sandbox process that its guest has taken over and this host. The box of a machine is made with
 * all of it, or the machine does not start.
 * @param jailWalls those of the network's processes; the host's packet rules and control groups are the same for both
 */
export function describeWalls(jailWalls: readonly Wall[]): Wall[] {
  const stands = (name: string, detail: string): Wall => ({ name, stands: true, detail });
  return [
    {
      name: "user",
      stands: false,
      detail: "a sandbox process is nobody on the host, but all machines share one range of such users",
    },
    stands("files", "a sandbox process sees its own machine's files and runsc"),
    stands("processes", "a sandbox process sees no process but its own"),
    stands("network", "a sandbox process has one interface, whose other end is its packet guard"),
    stands("capabilities", "a sandbox process has capabilities in a user namespace of its own only"),
    stands("calls", "gVisor's own list of system calls"),
    ...jailWalls.filter(({ name }) => name === "addresses" || name === "groups"),
  ];
}
