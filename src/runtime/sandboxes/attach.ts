/** A machine that is ready becomes the session of a sandbox, and the sandbox is shown as running. */
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import type { SandboxRecord, SessionOrigin } from "../../types.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";
import type { SandboxLogs } from "../records/sandbox-logs.ts";
import type { TeamMetrics } from "../records/team-metrics.ts";
import type { SandboxView } from "../runtime.ts";
import { LiveSession } from "../sessions/live-session.ts";
import type { ReadyMachine } from "./create.ts";
import type { SandboxEnds } from "./end.ts";
import type { SandboxRegistry } from "./registry.ts";

/** The first line of what follows in a sandbox's log. */
const originMessages: Record<SessionOrigin, string> = {
  create: "The sandbox was created",
  pool: "The sandbox was created",
  fork: "The sandbox was created as a fork",
  followup: "The sandbox was created as a follow-up",
  resume: "The sandbox was resumed",
  adopted: "The daemon took up the running sandbox",
};

export interface AttachDependencies {
  readonly clock: Clock;
  readonly samples: LifecycleSamples;
  readonly log: Logger;
  readonly logs: SandboxLogs;
  readonly accessTokenFor: (sandboxId: string) => string;
}

/** @param around the sandboxes it is shown among, and what hears of its loss */
export function attachSession(
  { clock, samples, log, logs, accessTokenFor }: AttachDependencies,
  around: { readonly registry: SandboxRegistry; readonly team: TeamMetrics; readonly ends: Pick<SandboxEnds, "lose"> },
  record: SandboxRecord,
  machine: ReadyMachine,
): SandboxView {
  const { registry, team, ends } = around;
  const { vm, origin } = machine;
  const accessToken = accessTokenFor(record.id);
  const session = new LiveSession({
    ...{ record, accessToken, clock, samples, log, ...machine },
    commands: logs.ofSession(record.id),
    onLost: (reason, detail) => ends.lose(record.id, vm.record.sessionId, reason, detail),
  });
  if (origin !== "adopted") team.countStart();
  logs.record(record.id, originMessages[origin], { event: "running", origin, templateID: record.templateId });
  session.log.info({ template: record.templateId }, "sandbox running");
  return registry.change(record, session) ?? registry.add(record, accessToken, session);
}

/** Lets go of every session without ending its machine: the daemon stops. */
export async function releaseSessions(sessions: Iterable<LiveSession>): Promise<void> {
  const all = [...sessions];
  for (const session of all) session.end(new DomainError("not_ready", "The daemon stops; connect again later"));
  await Promise.all(all.map((session) => session.vm.release()));
}
