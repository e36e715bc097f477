/** A data plane on a real port, for tests: the test makes the sessions, and everything else is as in the daemon. */
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import Fastify, { type FastifyBaseLogger, LogController } from "fastify";
import { type DataPlaneDeps, registerDataPlane } from "../../../routes/data/data-plane.ts";
import { handleError } from "../../../routes/http/errors.ts";
import { planeConstraint } from "../../../routes/http/plane-constraint.ts";
import { type Clock, systemClock } from "../../../src/clock.ts";
import type { GuestAgent } from "../../../src/guest/agent.ts";
import type { Logger } from "../../../src/log.ts";
import type { SandboxView } from "../../../src/runtime/contract.ts";
import { ProcessTable } from "../../../src/runtime/processes/process-table.ts";
import type { Session } from "../../../src/runtime/sessions/session.ts";
import type { SandboxIngress, SpanName } from "../../../src/types.ts";
import { openIngress } from "./ingress.ts";

export class TestSession implements Session {
  readonly sandboxId: string;
  readonly templateId = "base";
  ingress: SandboxIngress = openIngress;
  readonly sessionId = "session";
  readonly accessToken: string;
  readonly agent: GuestAgent;
  readonly processes: ProcessTable;
  readonly envs: Readonly<Record<string, string>> = { E2B_SANDBOX: "true" };
  readonly log: Logger;
  /** Lines of the session's log above debug, each with its message. */
  readonly logged: readonly string[];
  readonly samples: [SpanName, number][] = [];
  readonly #ending = new AbortController();

  constructor(sandboxId: string, agent: GuestAgent, clock: Clock = systemClock) {
    ({ log: this.log, logged: this.logged } = recordingLog());
    this.sandboxId = sandboxId;
    this.accessToken = `token-of-${sandboxId}`;
    this.agent = agent;
    this.processes = new ProcessTable(this, clock);
  }

  get ended(): AbortSignal {
    return this.#ending.signal;
  }

  kill(reason: Error): void {
    this.#ending.abort(reason);
  }

  recordSample(span: SpanName, durationMs: number): void {
    this.samples.push([span, durationMs]);
  }

  takeRestoreStart(): number | undefined {
    return undefined;
  }

  /** Headers with which the SDKs name this sandbox and prove that they may use it. */
  get headers(): Record<string, string> {
    return {
      "e2b-sandbox-id": this.sandboxId,
      "e2b-sandbox-port": "49983",
      "x-access-token": this.accessToken,
    };
  }
}

export interface DataPlane extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly server: Server;
  /** Lines of the log above debug, each with its message. */
  readonly logged: readonly string[];
}

/** A paused sandbox that a request resumes into `session`. */
export interface SleepingSandbox {
  readonly session: TestSession;
  /** The error of a resume; undefined: the resume works. */
  readonly failure?: Error;
}

export async function serveDataPlane(
  sessions: readonly TestSession[],
  clock: Clock = systemClock,
  sleeping: readonly SleepingSandbox[] = [],
  options: Pick<DataPlaneDeps, "bodyIdleMs"> = {},
): Promise<DataPlane> {
  const { log, logged } = recordingLog();
  const app = Fastify({
    loggerInstance: log as unknown as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: true,
    routerOptions: { constraints: { plane: planeConstraint } },
  });
  app.setErrorHandler(handleError);
  const awake = new Set(sessions);
  const live = () => [...awake].filter((session) => !session.ended.aborted);
  const runtime = {
    registry: {
      session: (id: string) => live().find((session) => session.sandboxId === id),
      sessionByAccessToken: (token: string) => live().find((session) => session.accessToken === token),
      sessions: live,
    },
    traffic: {
      resumableByTraffic: () =>
        sleeping
          .filter(({ session }) => !awake.has(session))
          .map(
            ({ session: { sandboxId, accessToken, ingress } }) =>
              ({ record: { id: sandboxId, ingress }, accessToken }) as SandboxView,
          ),
      resumeForTraffic: async (id: string) => {
        const found = sleeping.find(({ session }) => session.sandboxId === id);
        if (found?.failure) throw found.failure;
        if (found) awake.add(found.session);
        return found?.session;
      },
    },
  };
  await registerDataPlane(app, { runtime, clock, log, ...options });
  await app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = app.server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    server: app.server,
    logged,
    [Symbol.asyncDispose]: async () => {
      await app.close();
    },
  };
}

function recordingLog(): { log: Logger; logged: string[] } {
  const logged: string[] = [];
  const record = (...args: unknown[]) => {
    const [first, message] = args;
    const cause = (first as { err?: unknown } | undefined)?.err;
    logged.push(`${message ?? first}${cause instanceof Error ? `: ${cause.stack}` : ""}`);
  };
  const quiet = () => {};
  // "listening" is Fastify's.
  const info = (...args: unknown[]) => String(args[0]).startsWith("Server listening") || record(...args);
  const log = { trace: quiet, debug: quiet, info, warn: record, error: record, fatal: record, level: "warn" };
  return { log: Object.assign(log, { child: () => log }) as unknown as Logger, logged };
}
