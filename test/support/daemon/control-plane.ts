/** A control plane over a fake runtime, for tests. A test asks it with `call`, or listens and uses a real client. */
import type { FastifyInstance, InjectOptions } from "fastify";
import { pino } from "pino";
import { buildServer, type ServerDeps } from "../../../routes/server.ts";
import { systemClock } from "../../../src/clock.ts";
import { openLedger } from "../../../src/ledger/open.ts";
import { Keyring } from "../../../src/team/keyring.ts";
import { newApiKey } from "../../../src/team/machine-key.ts";
import { FakeRuntime } from "../fakes/fake-runtime.ts";
import { type FakeTemplates, openFakeTemplates } from "../fakes/fake-templates.ts";

export const teamId = "00000000-0000-4000-8000-000000000001";
export const apiKey = `e2b_${"0".repeat(40)}`;

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
  /** The parsed body; undefined when it is empty. */
  readonly body: unknown;
}

export interface ControlPlane extends AsyncDisposable {
  readonly app: FastifyInstance;
  readonly runtime: FakeRuntime;
  /** The templates behind the routes, unless the test brought its own. */
  readonly fake: FakeTemplates;
  /** Parsed log lines of level error and above. */
  readonly errors: Record<string, unknown>[];
  /** One request with the API key, unless the headers say otherwise. */
  call(method: string, url: string, body?: unknown, headers?: Record<string, string | undefined>): Promise<Answer>;
}

export function openControlPlane(options: Partial<ServerDeps> = {}): ControlPlane {
  const runtime = new FakeRuntime();
  const fake = openFakeTemplates();
  const errors: Record<string, unknown>[] = [];
  const log = pino({ level: "error" }, { write: (line: string) => errors.push(JSON.parse(line)) });
  const ledger = openLedger(":memory:");
  const keyring = new Keyring({ ledger, clock: systemClock, machineKey: apiKey, newKey: newApiKey });
  const app = buildServer({
    runtime,
    templates: fake.templates,
    quarantine: { list: () => [], remove: async () => {} },
    team: { id: teamId, apiKeys: keyring },
    config: { isApiKey: (candidate) => keyring.accepts(candidate), maxTimeoutMs: 24 * 3_600_000 },
    log,
    metricsText: async () => "firkin_sandboxes 0\n",
    version: "0.0.0",
    ...options,
  });
  return {
    app,
    runtime,
    fake,
    errors,
    call: async (method, url, body, headers = {}) => {
      const all = { "x-api-key": apiKey, ...headers };
      const request: InjectOptions = {
        method: method as "GET",
        url,
        headers: Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)),
        ...(body === undefined ? {} : { payload: body as object }),
      };
      const { statusCode: status, headers: answered, body: text } = await app.inject(request);
      const isJson = String(answered["content-type"]).startsWith("application/json");
      return { status, headers: answered, text, body: isJson && text !== "" ? JSON.parse(text) : undefined };
    },
    async [Symbol.asyncDispose]() {
      await app.close();
      await fake[Symbol.asyncDispose]();
      ledger.close();
    },
  };
}
