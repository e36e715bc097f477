/**
 * The table of what each test needs besides the npm packages: set-up steps by the beginning of the test file's path.
 * From it `npm test -- PATH` sets up only what PATH needs, and vitest divides the tests into its projects.
 */
import { basename, join, relative } from "node:path";
import { filesBelow } from "../setup/files.mjs";

/**
 * @typedef {"unit" | "tools" | "machines" | "qemu" | "other engines" | "interpreter"} Project `unit` needs nothing
 *   besides the npm packages, `tools` a compiler or another program, `machines` the engine that the daemon chooses on
 *   this host. `qemu` and `other engines` are tests of these engines. `interpreter` needs the template of that name.
 *
 * @typedef {object} Need
 * @property {string} path The beginning of paths, relative to the repository.
 * @property {Project} project Of the first row that fits.
 * @property {readonly string[]} steps Of every row that fits.
 */

const machines = ["packages", "test-packages", "build", "assets"];
/** The guest agent, or a program of the test, is compiled and run as a process of this machine. */
const compiled = { project: /** @type {const} */ ("tools"), steps: ["compiler"] };

/** `full` has R and Java, too, and takes minutes. */
const variant = process.env.FIRKIN_TEST_CODE_INTERPRETER ?? "lean";

/** The root of Debian that some families of images are made of takes a minute or two. */
const images = process.env.FIRKIN_TEST_IMAGES === "all" ? ["test-images"] : [];

/** The root of a Debian with Node.js and pip, and packages of PyPI and npm: two minutes and 600 MB. */
const realJob = process.env.FIRKIN_TEST_REAL_JOB === "all" ? ["real-job"] : [];

/** @type {readonly Need[]} */
export const needs = [
  { path: "test/vm/vz-", project: "other engines", steps: ["swift-helper"] },
  { path: "test/vm/gvisor-", project: "other engines", steps: ["runsc"] },
  { path: "test/vm/qemu-", project: "qemu", steps: machines },
  // It comes to QEMU in the end, whatever there is.
  { path: "test/vm/engine-choice", project: "qemu", steps: [...machines, "runsc"] },
  { path: "test/vm/", project: "machines", steps: [...machines, "runsc"] },
  { path: "test/vm/observability", project: "machines", steps: ["test-tools"] },
  { path: "test/sdk/python-builders", project: "tools", steps: ["test-packages"] },
  { path: "test/sdk/code-interpreter", project: "interpreter", steps: [`code-interpreter-disk-${variant}`] },
  { path: "test/sdk/", project: "machines", steps: [...machines, "runsc"] },
  { path: "test/sdk/image-families", project: "machines", steps: ["test-tools", ...images] },
  { path: "test/sdk/real-job", project: "machines", steps: ["test-tools", ...realJob] },
  { path: "test/sdk/console", project: "machines", steps: ["browser"] },
  { path: "test/code-interpreter/", project: "tools", steps: ["code-interpreter-wheels-lean"] },
  // Skipped where there is neither, because their packages are as large as everything else.
  { path: "test/code-interpreter/full-languages", project: "tools", steps: variant === "full" ? ["r-java"] : [] },
  { path: "test/guest-agent/", ...compiled },
  { path: "test/guest/agent", ...compiled },
  { path: "test/guest/frames-corpus", ...compiled },
  { path: "test/guest/link.test.ts", ...compiled },
  { path: "test/machine/fake", ...compiled },
  { path: "test/routes/auto-resume", ...compiled },
  { path: "test/routes/data-plane-limits", ...compiled },
  { path: "test/routes/envd-compose", ...compiled },
  { path: "test/routes/envd-files", ...compiled },
  { path: "test/routes/envd-http", ...compiled },
  { path: "test/routes/envd-sdk", ...compiled },
  { path: "test/routes/leaving-clients", ...compiled },
  { path: "test/routes/port-heads", ...compiled },
  { path: "test/routes/port-traffic", ...compiled },
  { path: "test/routes/resets", ...compiled },
  { path: "test/routes/sandbox-proxy", ...compiled },
  { path: "test/template/image-disk", project: "tools", steps: ["packages"] },
  { path: "test/template/image-disk/process", project: "tools", steps: ["build"] },
  { path: "test/template/images", project: "tools", steps: ["packages"] },
  { path: "test/template/registry/docker-registry", project: "tools", steps: ["test-tools"] },
  { path: "test/template/build/builds", ...compiled },
  { path: "test/template/build/copy-step", ...compiled },
  { path: "test/template/build/layers", ...compiled },
  { path: "test/template/build/ready-helpers", ...compiled },
  { path: "test/template/build/rebuild", ...compiled },
  { path: "test/machine/qemu/memory-changes", ...compiled },
  { path: "test/machine/file-data", ...compiled },
  { path: "test/machine/gvisor", project: "tools", steps: ["compiler"] },
  { path: "test/machine/gvisor/base-folder", project: "tools", steps: ["packages"] },
  { path: "test/machine/jail", project: "tools", steps: ["compiler"] },
  { path: "test/machine/network/network", project: "tools", steps: ["packages"] },
  { path: "test/scripts/layered-disk", project: "tools", steps: ["packages"] },
  { path: "test/helper-swift/", project: "tools", steps: ["swift-root"] },
  { path: "test/scripts/guest-files", project: "tools", steps: ["guest-kernel", "arm64-agent"] },
];

/** What the checks before the tests need: make for the guest agent, git for the format check. */
const checkSteps = ["packages", "test-packages"];

/**
 * The set-up steps that `npm test -- ARGUMENT…` needs. Without an argument that selects test files, it is those of all.
 * @param {readonly string[]} vitestArguments
 * @param {readonly string[]} testFiles All of them, relative to the repository.
 */
export function stepsFor(vitestArguments, testFiles) {
  // As vitest does it: a file is selected when its path contains an argument.
  const filters = vitestArguments.filter((part) => !part.startsWith("-")).map((part) => part.replace(/^\.\//, ""));
  const selected = testFiles.filter((file) => filters.some((filter) => file.includes(filter)));
  const files = selected.length > 0 ? selected : testFiles;
  const steps = files.flatMap((file) => needsOf(file).flatMap((need) => need.steps));
  return [...new Set(["npm", ...(vitestArguments.length === 0 ? checkSteps : []), ...steps])];
}

/**
 * The test files of a project.
 * @param {Project} project
 * @param {readonly string[]} testFiles
 */
export function filesOf(project, testFiles) {
  return testFiles.filter((file) => (needsOf(file)[0]?.project ?? "unit") === project);
}

/**
 * All test files, relative to the repository.
 * @param {string} repository
 */
export function listTestFiles(repository) {
  const paths = filesBelow([join(repository, "test")], (path) => basename(path).endsWith(".test.ts"));
  return paths.map((path) => relative(repository, path));
}

/** @param {string} file */
function needsOf(file) {
  return needs.filter(({ path }) => file.startsWith(path));
}
