/**
 * The Go that compiles runsc: the host's, or where that is missing or older than modules that fetch their own version,
 * the pinned one that Go's module proxy serves. A pinned one is used once and not installed.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { download } from "./downloads.mjs";
import { filesBelow } from "./files.mjs";

/** The module with Go itself, as `go` fetches it when a module asks for this version. */
const toolchain = "v0.0.1-go1.25.5.linux-amd64";
const toolchainSha256 = "8cea6783dab64d68b38f5b81ecd38d45155a3c06638991acc6af19e0fca80edb";
/** Since this version Go fetches the version of itself that a module asks for. */
const firstSelfUpdatingGo = [1, 21];
const goPlaces = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"];

/** The module proxy: the first that GOPROXY names, else Go's own. */
function moduleProxy() {
  const first = (process.env.GOPROXY ?? "").split(/[,|]/)[0] ?? "";
  return first.startsWith("https://") ? first.replace(/\/$/, "") : "https://proxy.golang.org";
}

function findGo() {
  return goPlaces.find((go) => {
    const { stdout, status } = spawnSync(go, ["version"], { encoding: "utf8" });
    const [, major, minor] = /go(\d+)\.(\d+)/.exec(stdout ?? "") ?? [];
    if (status !== 0 || minor === undefined) return false;
    const [first = 0, second = 0] = firstSelfUpdatingGo;
    return Number(major) > first || (Number(major) === first && Number(minor) >= second);
  });
}

/**
 * A Go of this host, or one unpacked into `scratch`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} scratch
 * @param {import("./graph.mjs").StepContext} context
 * @returns {Promise<string>} What to call.
 * @throws {import("./setup-error.mjs").SetupError} when it cannot be fetched
 */
export async function provideGo(roots, scratch, context) {
  const found = findGo();
  if (found !== undefined) return found;
  const url = `${moduleProxy()}/golang.org/toolchain/@v/${toolchain}.zip`;
  const [archive = ""] = await download([{ url, sha256: toolchainSha256 }], roots.downloads, context);
  const folder = join(scratch, "toolchain");
  await run("python3", ["-m", "zipfile", "--extract", archive, folder], context);
  const root = join(folder, `golang.org/toolchain@${toolchain}`);
  // The archives of modules say nothing of modes.
  for (const path of filesBelow([join(root, "bin"), join(root, "pkg/tool")], () => true)) fs.chmodSync(path, 0o755);
  fs.rmSync(archive);
  return join(root, "bin/go");
}
