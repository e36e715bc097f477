/** What clients are told of a sandbox that ended: why their streams broke, and the last line of its log. */
import type { EndReason } from "../../types.ts";

export const endMessages: Record<EndReason, string> = {
  killed: "The sandbox was killed",
  stopped: "The sandbox was stopped",
  expired: "The sandbox reached its end of life",
  create_failed: "The sandbox could not be created",
  machine_died: "The sandbox's machine died",
  lost: "The sandbox was lost",
};
