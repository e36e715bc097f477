/**
 * The daemon's settings: environment variables and flags, all checked before the start, all problems in one report.
 * Durable state is in `~/.firkin/state` and the rebuildable cache in `~/.firkin/cache`, never in TMPDIR, which systems
 * empty.
 */
import { availableParallelism, totalmem } from "node:os";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { z } from "zod";
import { DomainError } from "./errors.ts";
import { defaultCacheDir, defaultStateDir } from "./storage-roots.mjs";

const positive = z.coerce.number().int().positive();
const nonnegative = z.coerce.number().int().nonnegative();
const memoryReserveMiB = 2048;

const schema = z.object({
  stateDir: z.string().default(defaultStateDir).describe("folder of the durable state"),
  cacheDir: z.string().default(defaultCacheDir).describe("folder of the cache, which can be rebuilt"),
  host: z.string().default("127.0.0.1").describe("address to listen on"),
  port: z.coerce.number().int().min(0).max(65535).default(3000).describe("port to listen on; 0 picks one"),
  tlsPort: z.coerce
    .number()
    .int()
    .min(0)
    .max(65535)
    .optional()
    .describe("port to serve HTTPS on as well, for names below the domain; default none: see firkin tls"),
  domain: z
    .string()
    .max(200)
    .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/, "a domain name in lower case")
    .default("firkin.localhost")
    .describe("domain of the HTTPS names: api.DOMAIN and <port>-<sandbox>.DOMAIN"),
  dnsPort: z.coerce
    .number()
    .int()
    .min(0)
    .max(65535)
    .optional()
    .describe("port of a name server for the domain, on loopback; default none"),
  engine: z
    .enum(["auto", "qemu", "gvisor", "vz"])
    .default("auto")
    .describe("engine of sandboxes; auto: vz on macOS; on Linux qemu with KVM, else gvisor, else qemu's emulation"),
  runsc: z.string().min(1).optional().describe("the program of the gvisor engine; default the set-up's, or in PATH"),
  accel: z
    .enum(["auto", "kvm", "tcg"])
    .default("auto")
    .describe("acceleration of qemu; auto probes whether KVM really works"),
  cpuModel: z
    .string()
    .regex(/^[A-Za-z0-9][\w.+-]*(,[+-]?[\w.-]+(=\w+)?)*$/, "auto, host, or the name of a model of QEMU's")
    .default("auto")
    .describe("processor of guests: auto is a model by name, host the host's own with KVM"),
  guestCa: z
    .string()
    .min(1)
    .default("auto")
    .describe("authorities that guests trust beside their own: auto (those of this host), none, or a PEM file"),
  guestProxy: z
    .string()
    .min(1)
    .default("none")
    .describe("HTTP proxy of guests: none, auto (http_proxy, https_proxy, no_proxy of the daemon), or a URL"),
  vzHelper: z
    .string()
    .optional()
    .describe("the helper of the vz engine; default assets/vz/firkin-vz in the cache folder"),
  vzConsole: z
    .enum(["yes", "no"])
    .default("no")
    .describe("yes: each guest of the vz engine has a console, kept in console.log of its machine's folder"),
  keepAwake: z.enum(["yes", "no"]).default("no").describe("yes: an idle Mac stays awake while the daemon runs"),
  logLevel: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info").describe("log level"),
  logFile: z
    .string()
    .optional()
    .describe("log to a file; a.log: to a.1.log, a.2.log … of 16 MiB, of which the last five are kept; default stderr"),
  nodeTag: z
    .string()
    .regex(/^[a-z0-9]{2}$/, "two characters of a-z and 0-9")
    .default("aa")
    .describe("two characters in every sandbox id that name this machine"),
  maxSandboxes: positive.default(100).describe("how many sandboxes may exist at once"),
  vcpuBudget: positive.default(availableParallelism() * 32).describe("virtual CPUs of all sandboxes together"),
  memoryBudgetMiB: positive
    .default(Math.max(512, Math.floor(totalmem() / 2 ** 20) - memoryReserveMiB))
    .describe("memory of all sandboxes together, MiB"),
  diskBudgetMiB: positive.default(2 ** 21).describe("virtual disk of all sandboxes together, MiB (thin)"),
  diskFloorMiB: nonnegative
    .optional()
    .describe("free disk below which no sandbox starts, MiB; default 10 GiB or 10 % of the disk, whichever is less"),
  saveDiskFloorMiB: nonnegative
    .optional()
    .describe("free disk below which no sandbox is paused or snapshotted, MiB; default as --disk-floor-mib"),
  refillDiskFloorMiB: nonnegative
    .optional()
    .describe("free disk below which no warm VM is made, MiB; default twice --disk-floor-mib"),
  writeDiskFloorMiB: nonnegative
    .optional()
    .describe("free disk below which sandboxes that write wait, MiB; default a tenth of --disk-floor-mib"),
  guestDiskMiB: positive
    .optional()
    .describe("disk that running sandboxes may fill together, MiB; default none but --write-disk-floor-mib"),
  stuckAfterSeconds: positive.default(60).describe("silence after which a guest is given up, and paused, seconds"),
  warmPoolMin: nonnegative.default(1).describe("warm VMs kept ready for the template base, whatever the demand"),
  warmPoolMax: nonnegative.default(4).describe("warm VMs a template has at most, by recent demand; 0: no warm pool"),
  queueLimit: nonnegative.default(32).describe("creates that may wait for capacity; further ones are refused"),
  queueTimeoutMs: nonnegative.default(30_000).describe("how long a create waits for capacity, ms; 0: no queue"),
  imageCacheMiB: nonnegative.default(10_240).describe("layers of images that are kept for other images, MiB"),
  buildCacheMiB: nonnegative.default(10_240).describe("snapshots of build steps that are kept, MiB; 0: none"),
  allowLocalImages: z
    .enum(["yes", "no"])
    .default("no")
    .describe("yes: builds may name files of this host as images, docker-archive:PATH and oci-layout:PATH"),
  insecureRegistry: z
    .string()
    .default("")
    .describe("registries that are reached over plain HTTP, host[:port], with commas; those on the loopback are, too"),
  registryMirror: z
    .string()
    .default("")
    .describe("mirrors that are asked first, REGISTRY=URL with commas: docker.io=https://mirror.example"),
  codeInterpreter: z
    .enum(["background", "on-demand", "off"])
    .default("on-demand")
    .describe("template code-interpreter-v1: on-demand makes it for the first create, background after a start"),
  templateMaxAgeDays: positive.optional().describe("rebuild templates that are older, days; default never"),
  maxTimeoutHours: positive.default(24).describe("longest time to live a client may ask for, hours"),
});

export type Config = z.infer<typeof schema>;
type Setting = keyof Config;
const settings = Object.keys(schema.shape) as Setting[];

const kebab = (name: string) => name.replace(/MiB$/, "Mib").replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
const flagOf = (name: Setting) => kebab(name);
const variableOf = (name: Setting) => `FIRKIN_${kebab(name).replaceAll("-", "_").toUpperCase()}`;

/**
 * Reads the settings. Flags win over environment variables.
 * @param args command-line arguments after the subcommand, e.g. `["--port", "3001"]`
 * @throws DomainError `invalid_argument` listing every wrong setting
 */
export function readConfig(args: readonly string[], env: NodeJS.ProcessEnv): Config {
  const options = Object.fromEntries(settings.map((name) => [flagOf(name), { type: "string" as const }]));
  let flags: Record<string, unknown>;
  try {
    flags = parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    // npm keeps a flag to itself unless it stands behind `--`, and passes its value on alone.
    const isNpms = (error as NodeJS.ErrnoException).code === "ERR_PARSE_ARGS_UNEXPECTED_POSITIONAL";
    const hint = isNpms
      ? "Flags of npm start stand behind --: npm start -- --port 4000."
      : "See npx firkin serve --help.";
    throw new DomainError("invalid_argument", `${(error as Error).message}. ${hint}`);
  }
  const given = Object.fromEntries(
    settings.map((name) => [name, flags[flagOf(name)] ?? (env[variableOf(name)] || undefined)]),
  );
  const parsed = schema.safeParse(given);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => {
      const name = issue.path[0] as Setting;
      return `  --${flagOf(name)} / ${variableOf(name)}: ${issue.message}`;
    });
    throw new DomainError("invalid_argument", `wrong settings:\n${problems.join("\n")}`);
  }
  return { ...parsed.data, stateDir: resolve(parsed.data.stateDir), cacheDir: resolve(parsed.data.cacheDir) };
}

/** One line per setting for `--help`. */
export function describeSettings(): string {
  return settings
    .map(
      (name) => `  --${flagOf(name).padEnd(20)} ${variableOf(name).padEnd(26)} ${schema.shape[name].description ?? ""}`,
    )
    .join("\n");
}
