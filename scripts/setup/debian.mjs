/**
 * The way to Debian's archive: through mmdebstrap, with the mirrors and apt settings of the host where it has any.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { run } from "./command.mjs";
import { SetupError } from "./setup-error.mjs";

/** The guest's Debian release. */
export const guestSuite = "bookworm";

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Host apt settings that decide whether and how the archive can be reached. */
const aptSettingNames = [
  "Acquire::http",
  "Acquire::https",
  "Acquire::Retries",
  "Acquire::Check-Date",
  "Acquire::Check-Valid-Until",
];

/**
 * Runs mmdebstrap with a scratch folder of its own, as root only.
 * @param {readonly string[]} args Options
 * @param {object} options
 * @param {string} options.scratch
 * @param {string} [options.suite] Debian release.
 * @param {string} [options.target] Folder that becomes the root, or archive of it (`.tar`); none: hooks take out what is
 *   wanted.
 * @param {NodeJS.ProcessEnv} [options.env]
 * @param {AbortSignal} [options.signal]
 * @param {(line: string) => void} [options.onLine]
 */
export async function mmdebstrap(args, { scratch, suite = guestSuite, target, env, signal, onLine }) {
  if (process.getuid?.() !== 0) {
    // The user-namespace mode of mmdebstrap would need every folder above the cache open to everybody.
    const command = `sudo env "PATH=$PATH" "FIRKIN_CACHE_DIR=${dirname(scratch)}" npx firkin setup`;
    throw new SetupError(
      "only root can unpack and install Debian packages for the guest",
      `run this once:\n      ${command}`,
    );
  }
  const folder = fs.mkdtempSync(join(makeScratch(scratch), "mmdebstrap-"));
  try {
    const aptSettings = join(folder, "apt.conf");
    fs.writeFileSync(aptSettings, hostAptSettings());
    const sources = join(folder, "sources.list");
    const hostSources = hostDebianSources().replaceAll(guestSuite, suite);
    fs.writeFileSync(sources, hostSources);
    await run(
      "mmdebstrap",
      [
        ...modeOptions(),
        `--format=${target === undefined ? "null" : target.endsWith(".tar") ? "tar" : "directory"}`,
        '--aptopt=Acquire::Languages "none"',
        `--aptopt=${aptSettings}`,
        ...args,
        suite,
        target ?? "/dev/null",
        ...(hostSources === "" ? [] : [sources]),
      ],
      {
        env: { ...env, TMPDIR: folder },
        ...(signal ? { signal } : {}),
        ...(onLine ? { onLine } : {}),
        remedy: "check that this machine reaches a Debian mirror (apt-get update), then start again",
      },
    );
  } finally {
    removeUnmounted(folder);
  }
}

/**
 * Options for what this process may do: root with mounts, or root without (a plain container).
 * @returns {string[]}
 */
function modeOptions() {
  try {
    execFileSync("unshare", ["--mount", "mount", "-t", "tmpfs", "none", "/mnt"], { stdio: "ignore" });
    return ["--mode=root"];
  } catch {
    // A container without CAP_SYS_ADMIN cannot mount. The packages of the base disk install without /proc and /dev,
    // too.
    return ["--mode=root", "--skip=check/canmount,chroot/mount"];
  }
}

/** The host's own sources for {@link guestSuite}, if it has any; otherwise mmdebstrap's default is right. */
function hostDebianSources() {
  const signedBy = fs.existsSync(keyring) ? `[signed-by=${keyring}] ` : "";
  return hostArchives()
    .map(({ base, suite }) => `deb ${signedBy}${base} ${suite} main\n`)
    .join("");
}

/**
 * Where the host's apt has {@link guestSuite} from, with its updates, if it has it; none otherwise.
 * @returns {{ base: string, suite: string }[]}
 */
function hostArchives() {
  const format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)";
  // Without release information, because the lists may not be downloaded yet.
  const targets = execFileSync(
    "apt-get",
    ["indextargets", "--no-release-info", "--format", format, "Identifier: Packages"],
    { encoding: "utf8" },
  );
  const suites = [guestSuite, `${guestSuite}-updates`, `${guestSuite}-security`];
  const archives = [...new Set(targets.split("\n"))]
    .map((line) => line.split("|"))
    // Other archives have suites of that name as well. The addresses of Debian's mirrors end in these folders.
    .filter(([uri = "", suite = "", component]) => {
      return /\/debian(-security)?\/?$/.test(uri) && suites.includes(suite) && component === "main";
    })
    .map(([uri = "", suite = ""]) => ({ base: uri.replace(/\/$/, ""), suite }));
  return archives.some(({ suite }) => suite === guestSuite) ? archives : [];
}

/**
 * The archives that have {@link guestSuite}, for callers that fetch files without apt's lists, and whether an index
 * may be too old there. Both are as the host's apt has them, or as Debian has them where there is no apt.
 * @returns {{ archives: { base: string, suite: string }[], checksAge: boolean }}
 */
export function debianArchives() {
  const archives = [
    { base: "https://deb.debian.org/debian", suite: guestSuite },
    { base: "https://deb.debian.org/debian-security", suite: `${guestSuite}-security` },
  ];
  if (process.platform !== "linux") return { archives, checksAge: true };
  const own = hostArchives();
  const age = execFileSync("apt-config", ["shell", "age", "Acquire::Check-Valid-Until/b"], { encoding: "utf8" });
  return { archives: own.length > 0 ? own : archives, checksAge: !age.includes("false") };
}

/** Proxy, certificate and date settings of the host's apt, as an apt configuration file. */
function hostAptSettings() {
  return execFileSync("apt-config", ["dump", "--no-empty", "--format", '%F "%v";%n', ...aptSettingNames], {
    encoding: "utf8",
  });
}

/** @param {string} scratch */
function makeScratch(scratch) {
  fs.mkdirSync(scratch, { recursive: true });
  return scratch;
}

/**
 * Removes a folder in which a root disk was made, after unmounting what of the host is mounted below it.
 * @param {string} folder
 */
export function removeUnmounted(folder) {
  // The set-up mounts folders on Linux only.
  if (process.platform !== "linux") return fs.rmSync(folder, { recursive: true, force: true });
  const mounts = () =>
    fs
      .readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .map((line) => (line.split(" ")[4] ?? "").replace(/\\040/g, " "))
      .filter((path) => path.startsWith(`${folder}/`));
  for (const path of mounts().reverse()) execFileSync("umount", ["--lazy", path], { stdio: "ignore" });
  if (mounts().length > 0) {
    throw new SetupError(
      `something is still mounted below ${folder}`,
      `unmount it (findmnt -R ${folder}), then start again`,
    );
  }
  fs.rmSync(folder, { recursive: true, force: true });
}
