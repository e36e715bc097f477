#!/usr/bin/env node
/**
 * `node scripts/screenshots/make.mjs` makes the README's pictures of the console, light and dark, from a daemon of
 * its own with real sandboxes.
 */
import { execFileSync, spawn } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { launch } from "puppeteer-core";
import { setUpOrExit } from "../setup/plan.mjs";
import { storageRoots } from "../setup/roots.mjs";

const size = { width: 1240, height: 720 };
const sandboxes = [
  { metadata: { agent: "reviewer", run: "18" } },
  { metadata: { agent: "planner", run: "17" }, paused: true },
  { metadata: { job: "nightly-tests" } },
];
const command = "python3 -c 'import platform; print(platform.platform())'; ls --color /";

await setUpOrExit({ scope: { steps: ["build", "assets", "browser"], withDev: true } });
const roots = storageRoots();
const folder = join(roots.repository, "scripts/screenshots");
const stateDir = fs.mkdtempSync(join(tmpdir(), "fk-"));
const main = join(roots.repository, "dist/src/main.js");
const daemon = spawn(process.execPath, [main, "serve", "--port", "0", "--state-dir", stateDir, "--log-level", "warn"], {
  env: { ...process.env, FIRKIN_CACHE_DIR: roots.cache },
  stdio: ["ignore", "pipe", "inherit"],
});
const ended = new Promise((resolve) => daemon.once("exit", resolve));
/** @type {string[]} */
const created = [];
let link = "";

/**
 * @param {string} path
 * @param {string} method
 * @param {object} [body]
 */
async function call(path, method, body) {
  const { origin, hash } = new URL(link);
  const headers = { "x-api-key": hash.slice("#key=".length), ...(body && { "content-type": "application/json" }) };
  const answer = await fetch(`${origin}${path}`, { method, headers, ...(body && { body: JSON.stringify(body) }) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${await answer.text()}`);
  return answer;
}

/** The link to the console, which `firkin env` prints once the daemon listens. @returns {Promise<string>} */
async function linkOfDaemon() {
  let printed = "";
  for await (const chunk of daemon.stdout) {
    printed += chunk;
    if (!printed.includes("listens on")) continue;
    const environment = execFileSync(process.execPath, [main, "env", "--state-dir", stateDir], { encoding: "utf8" });
    const found = /^# console: (\S+)$/m.exec(environment)?.[1];
    if (found) return found;
  }
  throw new Error(`the daemon ended before it listened:\n${printed}`);
}

try {
  link = await linkOfDaemon();
  for (const { metadata, paused } of sandboxes) {
    const answer = await call("/v2/sandboxes", "POST", { templateID: "base", timeout: 900, metadata });
    const { sandboxID } = /** @type {{ sandboxID: string }} */ (await answer.json());
    created.push(sandboxID);
    if (paused) await call(`/sandboxes/${sandboxID}/pause`, "POST");
  }
  const browser = await launch({
    executablePath: "/usr/bin/chromium-headless-shell",
    headless: "shell",
    args: ["--no-sandbox"],
  });
  try {
    const page = await browser.newPage();
    await page.setViewport(size);
    await page.goto(link);
    await page.waitForSelector("#sandboxes tbody tr");
    await page.keyboard.press("t");
    await page.waitForFunction("/pid \\d/.test(document.querySelector('.shell header')?.textContent)");
    await page.waitForFunction("document.querySelector('.xterm')?.textContent.includes('$ ')");
    await page.keyboard.type(`${command}\r`);
    await page.waitForFunction("document.querySelector('.xterm')?.textContent.includes('lost+found')");
    // The daemon samples usage every five seconds, and the page asks every two.
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    fs.mkdirSync(folder, { recursive: true });
    for (const value of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value }]);
      await new Promise((resolve) => setTimeout(resolve, 500));
      await page.screenshot({ path: join(folder, `console-${value}.webp`), type: "webp", quality: 85 });
    }
  } finally {
    await browser.close();
  }
} finally {
  for (const id of created) await call(`/sandboxes/${id}`, "DELETE").catch((error) => console.error(error));
  daemon.kill("SIGTERM");
  await ended;
  fs.rmSync(stateDir, { recursive: true, force: true });
}
