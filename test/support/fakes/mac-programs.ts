/** Stand-ins for the programs of a Mac, with which its report is made on Linux. */
import { execFile } from "node:child_process";
import { chmod, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const report = fileURLToPath(new URL("../../../scripts/verify/mac/report.mjs", import.meta.url));
/** The last row of a probe. */
export const probeEnd = `{"step":"end","ok":true,"ms":0}`;

async function install(root: string, name: string, script: string): Promise<void> {
  const path = join(root, "bin", name);
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
}

/**
 * The programs of a Mac in `<root>/bin`, and folders of a cache below `root`.
 * @param failing the step whose program fails, with its cause on its output
 * @param realSteps steps that are run as they are, by this Node.js
 * @param built what stands for the helper that Swift has built
 */
export async function installMac(
  root: string,
  failing = "",
  realSteps: readonly string[] = [],
  built = "",
): Promise<void> {
  await mkdir(join(root, "bin"));
  await mkdir(join(root, "cache/assets/vz"), { recursive: true });
  await mkdir(join(root, "cache/logs"), { recursive: true });
  await writeFile(join(root, "cache/logs/guest-disk.log"), "the set-up's log of annabelle\n");
  const swift = `case "$*" in
    *--version*) echo "Apple Swift version 6.0.3 (swiftlang-6)" ;;
    *--show-bin-path*) echo "${root}/built" ;;
    build*) ${failing === "build-helper" ? 'echo "the cause in build-helper"; exit 1' : "echo built"} ;;
    test*) ${failing === "swift-test" ? 'echo "the cause in swift-test"; exit 1' : "echo tested"} ;;
  esac`;
  await mkdir(join(root, "built"));
  if (built) await symlink(built, join(root, "built/firkin-vz"));
  else {
    await writeFile(join(root, "built/firkin-vz"), "#!/bin/sh\necho firkin-vz 0.1.0\n");
    await chmod(join(root, "built/firkin-vz"), 0o755);
  }
  const answers: Record<string, string> = {
    uname: 'case "$1" in -m) echo arm64 ;; *) echo Darwin ;; esac',
    sw_vers: "echo 15.1",
    "xcode-select": "echo /Library/Developer/CommandLineTools",
    swift,
    xcrun: `shift; exec swift "$@"`,
    codesign: `echo com.apple.security.virtualization`,
    id: 'case "$1" in -u) echo 501 ;; -F) echo "Annabelle Example" ;; *) echo annabelle ;; esac',
    hostname: "echo annabelles-mac.local",
    scutil: "echo Annabelles-MacBook",
    ioreg: `echo '"IOPlatformSerialNumber" = "C02XK1ZZJGH5" "IOPlatformUUID" = "6F1A-77"'`,
    log: `echo "the system's log: com.apple.Virtualization annabelle C02XK1ZZJGH5"`,
    npm: failing === "packages" ? `echo "the cause in packages"; exit 1` : "echo installed",
  };
  const others = [
    "sysctl",
    "pkgutil",
    "launchctl",
    "diskutil",
    "tmutil",
    "defaults",
    "locale",
    "pgrep",
    "pmset",
    "curl",
  ];
  for (const name of others) answers[name] = `echo "${name} answers"`;
  for (const [name, script] of Object.entries(answers)) await install(root, name, script);
  // What the steps start with Node.js is stood in for by its name. The report itself is started by its full path.
  const steps: Record<string, string> = {
    "mac-files": "*/mac-files.mjs*",
    "probe-kernel": "*/probe.mjs*--without-agent*",
    probe: "*/probe.mjs*",
    "set-up": "*firkin.mjs\\ setup*",
    doctor: "*firkin.mjs\\ doctor*",
    suite: "*vitest.mjs*",
    daemon: "*/daemon.mjs*",
  };
  const cases = Object.entries(steps).map(([name, pattern]) => {
    const good = name.startsWith("probe") ? `echo '${probeEnd}'` : `echo "${name} ran for annabelle"`;
    const bad = name.startsWith("probe")
      ? `echo '{"step":"save full","ok":false,"ms":3,"error":{"message":"the cause in ${name}"}}'; ${good}`
      : `echo "the cause in ${name}"; exit 1`;
    const real = `exec ${process.execPath} "$@"`;
    return `${pattern}) ${realSteps.includes(name) ? real : name === failing ? bad : good} ;;`;
  });
  await install(root, "node", `case "$*" in ${cases.join("\n")}\n*) echo "unexpected: $*"; exit 9 ;; esac`);
  for (const name of ["sh", "git", "tar", "cut", "grep", "mkdir", "cp", "mv", "rm", "dirname", "cat", "gzip", "df"]) {
    const { stdout } = await run("/bin/sh", ["-c", `command -v ${name}`]);
    await symlink(stdout.trim(), join(root, "bin", name));
  }
}

export interface Report {
  readonly status: number;
  readonly output: string;
  /** Name of a file in the archive → its text. */
  readonly files: ReadonlyMap<string, string>;
}

/** Makes the report and unpacks its archive. */
export async function makeReport(root: string): Promise<Report> {
  const env = {
    PATH: join(root, "bin"),
    HOME: root,
    FIRKIN_CACHE_DIR: join(root, "cache"),
    FIRKIN_STATE_DIR: join(root, "s"),
  };
  const args = [report, "--rehearse", "--no-questions", "--to", join(root, "report")];
  const { status, output } = await run(process.execPath, args, { env }).then(
    ({ stdout }) => ({ status: 0, output: stdout }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      status: error.code,
      output: error.stdout + error.stderr,
    }),
  );
  await mkdir(join(root, "unpacked"));
  await run("tar", ["-xzf", join(root, "report.tar.gz"), "-C", join(root, "unpacked")]);
  const names = await readdir(join(root, "unpacked"), { recursive: true, withFileTypes: true });
  const files = new Map<string, string>();
  for (const entry of names.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name);
    files.set(path.slice(join(root, "unpacked/report/").length), await readFile(path, "utf8"));
  }
  return { status, output, files };
}
