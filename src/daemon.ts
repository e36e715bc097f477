/**
 * The daemon is opened here: everything in order inside one scope, so that a failed start undoes itself and a stop
 * takes the parts down in reverse. Machines are not part of the scope, because they outlive the daemon.
 */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { join, resolve } from "node:path";
import type { FastifyInstance } from "fastify";
import { registerDataPlane } from "../routes/data/data-plane.ts";
import { buildServer } from "../routes/server.ts";
import { type Address, writeAddress } from "./client-environment.ts";
import { systemClock } from "./clock.ts";
import type { Config } from "./config.ts";
import { openEngine } from "./daemon-engine.ts";
import { type Every, loopsIn, startLoops } from "./daemon-loops.ts";
import { wireRuntime } from "./daemon-wiring.ts";
import { newTemplateId } from "./e2b/ids.ts";
import { DomainError, isDomainError } from "./errors.ts";
import { listHeldEngines } from "./ledger/held-engines.ts";
import { followStateFolder } from "./ledger/relocate.ts";
import { getOrMakeSetting } from "./ledger/settings.ts";
import { lockState } from "./ledger/state-lock.ts";
import { listSourcedBuilds } from "./ledger/template-builds.ts";
import { type Logger, openLog } from "./log.ts";
import { makePrivateFolder } from "./private-folder.ts";
import { ArtifactCollector } from "./runtime/capacity/artifact-collector.ts";
import type { RuntimeDependencies } from "./runtime/dependencies.ts";
import { openStateLedger } from "./runtime/restart/open-ledger.ts";
import { reconcile } from "./runtime/restart/reconcile.ts";
import { composeRuntime, type DrivenRuntime } from "./runtime/runtime.ts";
import { Scope } from "./scope.ts";
import { Keyring } from "./team/keyring.ts";
import { newApiKey, readOrCreateApiKey } from "./team/machine-key.ts";
import { assetsFolderOf, registerCacheUser } from "./template/assets/cache.ts";
import { type GuestAssets, readGuestAssets } from "./template/assets/guest-assets.ts";
import { codeInterpreterAlias } from "./template/base/code-interpreter.ts";
import { baseAlias, ensureBaseTemplate } from "./template/base/template.ts";
import { BaseUpkeep } from "./template/base/upkeep.ts";
import { TemplateBuilds } from "./template/build/builds.ts";
import { copiedHashes } from "./template/build/stored-spec.ts";
import { openImages } from "./template/images/open.ts";
import { TemplateService } from "./template/service.ts";
import { readHostTrust } from "./template/trust/host-trust.ts";
import { UploadCache } from "./template/uploads/cache.ts";
import { domainWithPort } from "./tls/instructions.ts";

export interface Daemon extends AsyncDisposable {
  readonly address: Address;
  readonly apiKey: string;
  readonly log: Logger;
}

const baseTemplateTickMs = 1_000;
const wantedTemplateTickMs = 1_000;
const certificateTickMs = 3_600_000;

/**
 * Opens the daemon and listens.
 * @param stop gives up a start that is under way
 * @throws DomainError with a message that says what to do, or the reason of `stop`; everything is undone then
 */
export async function openDaemon(config: Config, version: string, stop: AbortSignal): Promise<Daemon> {
  const scope = new Scope();
  try {
    return await open(config, version, scope, stop);
  } catch (error) {
    await scope.close();
    throw error;
  }
}

async function open(config: Config, version: string, scope: Scope, stop: AbortSignal): Promise<Daemon> {
  await makePrivateFolder(config.stateDir);
  const file = config.logFile === undefined ? undefined : resolve(config.logFile);
  const { log } = scope.use(await openLog({ level: config.logLevel, file }));
  const lock = lockState(config.stateDir);
  scope.defer(() => lock[Symbol.dispose]());
  await refusePortInUse(config);
  const machinesFolder = join(config.stateDir, "machines");
  const state = {
    ledgerPath: join(config.stateDir, "ledger.db"),
    machinesFolder,
    snapshotsFolder: join(config.stateDir, "snapshots"),
    quarantineFolder: join(config.stateDir, "quarantine"),
  };
  const ledger = await openStateLedger(state, log, systemClock);
  scope.defer(() => ledger.close());
  followStateFolder(ledger, state);
  const assets = await readGuestAssets(config.cacheDir);
  const trust = await readHostTrust(config);
  const heldEngines = listHeldEngines(ledger, [baseAlias, codeInterpreterAlias]);
  const { driver, chosenBecause } = await openEngine({ config, assets, machinesFolder, heldEngines, log });
  scope.use(driver);
  const deps = wireRuntime(config, { ledger, driver, chosenBecause, assets, trust, log });
  const runtime = composeRuntime(deps);
  scope.defer(() => runtime.close());
  // Both before a template is made, so that what an earlier attempt left is gone and running sandboxes end in time.
  const { templates, builds } = await openTemplates(config, deps, scope);
  await reconcile(deps, runtime, machinesFolder);
  await ensureTemplate(deps, assets, stop).catch((error) => throwUnlessFull(error, log));
  stop.throwIfAborted();
  const apiKey = await readOrCreateApiKey(config.stateDir);
  const keyring = new Keyring({ ledger, clock: deps.clock, machineKey: apiKey, newKey: newApiKey });
  scope.defer(() => keyring.flush());
  const app = await listen(config, { keyring, version, deps, runtime, templates }, scope);
  const every = loopsIn(scope, deps);
  const base = new BaseUpkeep({ ...deps, ensure: (signal) => ensureTemplate(deps, assets, signal) });
  every("base_template", baseTemplateTickMs, (signal) => base.tick(signal));
  every("wanted_templates", wantedTemplateTickMs, (signal) => deps.wantedTemplates.maintain(signal));
  startLoops(every, { deps, runtime, builds, keyring, templateMaxAgeDays: config.templateMaxAgeDays });
  const https = await listenForHttps(config, app, deps, scope, every);
  const address = { url: urlOf(app), ...(https ? { https } : {}) };
  await writeAddress(config.stateDir, address);
  log.info({ ...address, engine: { ...driver.info, chosenBecause } }, "listening");
  return { address, apiKey, log, [Symbol.asyncDispose]: () => scope.close() };
}

/** Serves the domain's names as well, if that is wanted. */
async function listenForHttps(
  config: Config,
  { server }: FastifyInstance,
  { clock, log }: RuntimeDependencies,
  scope: Scope,
  every: Every,
): Promise<Address["https"]> {
  const { stateDir, host, domain, tlsPort, dnsPort } = config;
  if (tlsPort === undefined) {
    if (dnsPort === undefined) return undefined;
    throw new DomainError("invalid_argument", "--dns-port answers for the names of HTTPS: give --tls-port too.");
  }
  const { openHttps } = await import("./tls/https.ts");
  const { settings, files, renew } = await openHttps(
    { stateDir, host, domain, tlsPort, dnsPort },
    { server, clock, log },
    scope,
  );
  every("certificates", certificateTickMs, renew);
  return { domain: domainWithPort(settings), ...files };
}

async function ensureTemplate(deps: RuntimeDependencies, assets: GuestAssets, stop: AbortSignal): Promise<void> {
  const { ledger, driver, clock, log, reach, trust, samples, snapshotsFolder, budgets } = deps;
  await makePrivateFolder(snapshotsFolder);
  const template = { ledger, driver, clock, log, reach, trust, snapshotsFolder, newTemplateId, budgets };
  await ensureBaseTemplate(
    {
      ...template,
      admitDisk: (work) => deps.disk.admit(work),
      recordSample: (span, ms) => samples.record(span, "base_template", ms, null),
    },
    assets,
    (step) => process.stderr.write(`  ${step} …\n`),
    stop,
  );
}

/** Sandboxes that were taken over come first: what waits for their room is tried again while the daemon runs. */
function throwUnlessFull(error: unknown, log: Logger): void {
  if (!isDomainError(error, "capacity_exhausted") || error.details.oversized === true) throw error;
  log.warn({ reason: error.message }, "the base template is not up to date yet");
}

/** Opens the templates, and clears up half-done builds before reconciliation looks for machines without an owner. */
async function openTemplates(
  config: Config,
  deps: RuntimeDependencies,
  scope: Scope,
): Promise<{ templates: TemplateService; builds: TemplateBuilds }> {
  const { ledger, clock, samples, disk } = deps;
  const secret = getOrMakeSetting(ledger, "upload_secret", () => crypto.randomUUID() + crypto.randomUUID());
  const own = getOrMakeSetting(ledger, "upload_folder", () => crypto.randomUUID());
  const needed = listSourcedBuilds(ledger).flatMap(({ spec }) => copiedHashes(spec));
  const uploads = await UploadCache.openIn(join(config.cacheDir, "uploads"), { own, needed, secret, clock });
  const admitDisk = (what: string, work?: "save") => disk.admit(what, work);
  const admitBytes = (what: string, bytes: number) => disk.admit(what, "restore", bytes);
  const images = await openImages(config, { ...deps, admitBytes });
  const builds = new TemplateBuilds({
    ...deps,
    uploads,
    images,
    admitDisk,
    layerBudgetBytes: config.buildCacheMiB * 2 ** 20,
    markerPath: "/.e2b",
    recordSample: (span, ms) => samples.record(span, "build", ms, null),
  });
  scope.defer(() => builds.close());
  await builds.recover();
  await registerCacheUser(await assetsFolderOf(config.cacheDir), config.stateDir);
  const { cacheDir, stateDir } = config;
  const collectTemplates = () => builds.collect();
  const collector = new ArtifactCollector({ ...deps, uploads, collectTemplates, cacheDir, stateDir });
  disk.collectWith((isEnough) => collector.collect(isEnough));
  const settleKills = () => deps.unfinishedWork.settle();
  const templates = new TemplateService({ ledger, builds, uploads, newTemplateId, admitDisk, settleKills });
  return { templates, builds };
}

/** The parts that the server answers from. */
interface ServedParts {
  readonly keyring: Keyring;
  readonly version: string;
  readonly deps: RuntimeDependencies;
  readonly runtime: DrivenRuntime;
  readonly templates: TemplateService;
}

async function listen(config: Config, served: ServedParts, scope: Scope): Promise<FastifyInstance> {
  const { deps, runtime, templates, keyring, version } = served;
  const { ledger, clock, log, metrics } = deps;
  const app = buildServer({
    runtime,
    templates,
    quarantine: deps.quarantine,
    team: { id: getOrMakeSetting(ledger, "team_id", () => crypto.randomUUID()), apiKeys: keyring },
    log,
    version,
    config: {
      isApiKey: (candidate) => keyring.accepts(candidate),
      maxTimeoutMs: config.maxTimeoutHours * 3_600_000,
      domain: config.domain,
    },
    metricsText: () => {
      runtime.updateGauges();
      return metrics.registry.metrics();
    },
    registerDataPlane: (plane) => registerDataPlane(plane, { runtime, clock, log }),
  });
  scope.defer(() => app.close());
  await app.listen({ host: config.host, port: config.port }).catch((error) => throwListenError(error, config));
  return app;
}

/** Checks the port first, because listening comes last and a first start makes a template before that. */
async function refusePortInUse({ host, port }: Config): Promise<void> {
  const probe = createServer();
  try {
    await once(probe.listen(port, host), "listening").catch((error) => throwListenError(error, { port }));
  } finally {
    probe.close();
  }
}

function throwListenError(error: NodeJS.ErrnoException, { port }: Pick<Config, "port">): never {
  if (error.code !== "EADDRINUSE") throw error;
  throw new DomainError("invalid_state", `Port ${port} is in use. Choose another with --port.`);
}

function urlOf(app: FastifyInstance): string {
  const { address, port, family } = app.server.address() as AddressInfo;
  return `http://${family === "IPv6" ? `[${address}]` : address}:${port}`;
}
