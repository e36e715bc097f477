/**
 * The compiled program of the command `firkin`: serve, env, tls, build, template, builds, version and help. `scripts/cli/firkin.mjs` sets up
 * what is missing and then runs this file; it does setup and doctor by itself, because those run before anything is
 * compiled.
 */
import { readFileSync } from "node:fs";
import closeWithGrace from "close-with-grace";
import { describeAccess, describeStart, readAddress } from "./client-environment.ts";
import { type Config, describeSettings, readConfig } from "./config.ts";
import { DomainError, isDomainError, messageOf } from "./errors.ts";
import { asksForHelp, commandHelp, commands, help, unknownCommand } from "./help.mjs";
import { makePrivateFolder } from "./private-folder.ts";
import { readOrCreateApiKey } from "./team/machine-key.ts";

// package.json is one folder above src/main.ts and two above dist/src/main.js.
const version = readVersion();

async function serve(config: Config): Promise<void> {
  const { openDaemon } = await import("./daemon.ts");
  const stop = new AbortController();
  const opening = openDaemon(config, version, stop.signal);
  // Installed before the start is done, because an interrupted first start must not leave its half-made machine
  // running.
  const { uninstall } = closeWithGrace({ delay: 20_000, logger: false }, async ({ err, signal }) => {
    stop.abort(new DomainError("cancelled", `stopped by ${signal ?? messageOf(err)} before it listened`));
    const daemon = await opening.catch(() => undefined);
    if (err) daemon?.log.error({ err }, "the daemon stops after an unhandled error");
    else daemon?.log.info({ signal }, "the daemon stops; sandboxes go on, and the next start adopts them");
    await daemon?.[Symbol.asyncDispose]();
  });
  try {
    const daemon = await opening;
    process.stdout.write(describeStart(version, daemon.apiKey, daemon.address, process.stdout));
  } catch (error) {
    if (stop.signal.aborted) throw stop.signal.reason;
    uninstall();
    throw error;
  }
}

async function printEnvironment(config: Config): Promise<void> {
  await makePrivateFolder(config.stateDir);
  const noted = await readAddress(config.stateDir);
  const address = noted ?? { url: `http://${config.host}:${config.port}` };
  process.stdout.write(describeAccess(await readOrCreateApiKey(config.stateDir), address));
  if (noted) return;
  process.stderr.write(
    `firkin: no daemon has listened yet with the state folder ${config.stateDir}. These lines are right once one listens on ${address.url}: npm start\n`,
  );
}

/** A port that needs no privilege. */
const suggestedTlsPort = 8443;

async function prepareTls(config: Config): Promise<void> {
  const [{ tlsInstructions }, { openCertificates }] = await Promise.all([
    import("./tls/instructions.ts"),
    import("./tls/store.ts"),
  ]);
  const { stateDir, domain, tlsPort = suggestedTlsPort, dnsPort } = config;
  const { files } = await openCertificates(stateDir, domain, Date.now());
  process.stdout.write(tlsInstructions({ domain, port: tlsPort, dnsPort }, files));
}

async function main(args: readonly string[]): Promise<void> {
  // Flags alone are settings of serve.
  const [command = "serve", ...rest] = args[0]?.startsWith("--") && !asksForHelp(args) ? ["serve", ...args] : args;
  if (command === "help" || asksForHelp(args)) return printHelp(command === "help" ? rest[0] : command);
  switch (command) {
    case "serve":
      return serve(readConfig(rest, process.env));
    case "env":
      return printEnvironment(readConfig(rest, process.env));
    case "tls":
      return prepareTls(readConfig(rest, process.env));
    case "build":
    case "builds":
    case "template":
      return askDaemon(command, rest);
    case "version":
      process.stdout.write(`${version}\n`);
      return;
    // What `firkin template add code-interpreter` ends with (scripts/cli/add-template.mjs).
    case "follow-code-interpreter": {
      const { followTemplate } = await import("./follow-template.ts");
      return followTemplate(readConfig([], process.env).stateDir);
    }
    case "setup":
    case "doctor":
      throw new DomainError("invalid_argument", `the compiled program has no ${command}: run npx firkin ${command}`);
    default:
      process.stderr.write(unknownCommand(command));
      process.exitCode = 2;
  }
}

/** Commands that a running daemon does. */
async function askDaemon(command: string, args: readonly string[]): Promise<void> {
  const [{ runTemplateCommand }, { ControlApi }] = await Promise.all([
    import("./commands/templates.ts"),
    import("./commands/api.ts"),
  ]);
  const { stateDir, host, port } = readConfig([], process.env);
  await makePrivateFolder(stateDir);
  const { url } = (await readAddress(stateDir)) ?? { url: `http://${host}:${port}` };
  const api = new ControlApi(url, await readOrCreateApiKey(stateDir));
  const giveUp = new AbortController();
  // The second Ctrl-C does not wait for the daemon.
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => giveUp.abort(new DomainError("cancelled", `cancelled by ${name}`)));
  }
  await runTemplateCommand(command, args, api, (line) => process.stdout.write(`${line}\n`), giveUp.signal);
}

function printHelp(name: string | undefined): void {
  const command = commands.find((each) => each.name === name);
  process.stdout.write(command ? commandHelp(command, describeSettings()) : help);
}

function readVersion(): string {
  for (const above of ["../package.json", "../../package.json"]) {
    try {
      return (JSON.parse(readFileSync(new URL(above, import.meta.url), "utf8")) as { version: string }).version;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  throw new Error("package.json is missing beside the program");
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(
    `firkin: ${isDomainError(error) ? error.message : error instanceof Error ? error.stack : error}\n`,
  );
  process.exitCode = 1;
});
