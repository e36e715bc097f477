/** The console in a real browser, over real machines: what a user sees and does, mostly by keyboard. */
import { Sandbox } from "e2b";
import type { Browser, Page } from "puppeteer-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BreakableLine, breakableLineTo, findBrowser, openBrowser } from "../support/clients/browser.ts";
import { sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { connectionTo, sandboxIds } from "../support/daemon/requests.ts";
import type { SharedDaemon } from "../support/daemon/shared-daemon.ts";

const browserPath = findBrowser();
const name = browserPath ? "the console" : "the console (skipped: there is no chromium-headless-shell or chromium)";
const hostile = `<img src=x onerror="document.title='owned'">\u202e\u0007`;

describe.skipIf(skipReason || !browserPath)(name, () => {
  let shared: SharedDaemon;
  let browser: Browser;
  let line: BreakableLine;
  let page: Page;
  const problems: string[] = [];

  beforeAll(async () => {
    shared = sharedDaemon();
    line = await breakableLineTo(shared.url);
    browser = await openBrowser(browserPath ?? "");
    page = await browser.newPage();
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      // The page tries a lost connection again. Any other error, such as a broken policy, is a mistake of the page.
      if (message.type() === "error" && !/net::ERR_|WebSocket|status of 40[14]/.test(message.text()))
        problems.push(message.text());
    });
    await page.setViewport({ width: 1280, height: 800 });
  });
  afterAll(async () => {
    await browser?.close();
    await line?.[Symbol.asyncDispose]();
    for (const id of await sandboxIds(shared)) await Sandbox.kill(id, connectionTo(shared));
  });

  const textOf = (selector: string) => page.$eval(selector, (found) => found.textContent ?? "").catch(() => "");
  const rows = () => page.$$eval("#sandboxes tbody tr", (all) => all.map((row) => row.textContent ?? ""));
  const sees = (selector: string, text: string | RegExp) =>
    expect
      .poll(() => textOf(selector))
      .toSatisfy((seen: string) => (typeof text === "string" ? seen.includes(text) : text.test(seen)));
  const focused = () => page.evaluate("document.activeElement?.textContent ?? ''");
  const selected = () => textOf("#detail-title");
  const detail = () => page.$$eval("#waterfall tr", (all) => all.map((row) => row.textContent ?? ""));

  test("a wrong key is asked for again, and the right one leaves the address", async () => {
    await page.goto(`${line.url}/#key=e2b_wrong`);
    await sees("#key-problem", "does not know this key");
    await page.type("#key-dialog input", "e2b_wrong_too");
    await page.keyboard.press("Enter");
    await sees("#key-problem", "does not know this key");
    await page.goto("about:blank");
    await page.goto(`${line.url}/#key=${shared.apiKey}`);
    await sees("#engine", /^(qemu \d.* · (TCG|KVM)|gvisor \d\S*)$/);
    expect(page.url()).toBe(`${line.url}/`);
  });

  test("a sandbox is created by keyboard, and is listed with what it was given", async () => {
    await page.keyboard.press("n");
    await page.waitForSelector("#create-dialog[open] option");
    await page.type("#create-dialog input[name=metadata]", "job=night run=7");
    await page.keyboard.press("Enter");
    await sees("#status", /^Created /);
    const [id = ""] = await sandboxIds(shared);
    await expect.poll(rows).toEqual([expect.stringContaining(id)]);
    await expect.poll(async () => [await selected(), await focused()]).toEqual([id, id]);
    const { metadata } = await Sandbox.getInfo(id, connectionTo(shared));
    expect(metadata).toEqual({ job: "night", run: "7" });
    await sees("#detail-metadata", "job=nightrun=7");
    await sees("#list-count", "1 running, 0 paused");
    await sees("#capacity", /Sandboxes1 \/ \d+/);
  });

  test("the terminal of a sandbox takes keys and shows the answer, and the waterfall has every stage", async () => {
    await page.keyboard.press("t");
    await sees(".shell header", /pid \d+/);
    await page.keyboard.type("echo $((6 * 7))-answer\r");
    await sees(".xterm", "42-answer");
    await expect
      .poll(detail)
      .toEqual([
        expect.stringMatching(/^Restore\d+(\.\d)? ms$/),
        expect.stringMatching(/^Ready probe\d+(\.\d)? ms$/),
        expect.stringMatching(/^Command start\d+(\.\d)? ms$/),
        expect.stringMatching(/^First byte\d+(\.\d)? ms$/),
      ]);
  });

  test("after the connection broke, the terminal goes on in the same shell", async () => {
    await page.keyboard.type("kept=still-here\r");
    await sees(".xterm", "kept=still-here");
    line.cut();
    await sees(".shell header", "reconnecting");
    line.mend();
    await sees(".shell header", "leaves it");
    await page.keyboard.type("echo $kept-$((40 + 2))\r");
    await sees(".xterm", "still-here-42");
  });

  test("Shift+Esc leaves the terminal, and P pauses and resumes the sandbox", async () => {
    await page.keyboard.down("Shift");
    await page.keyboard.press("Escape");
    await page.keyboard.up("Shift");
    const id = await selected();
    await expect.poll(focused).toBe(id);
    await page.keyboard.press("p");
    await sees("#status", `Paused ${id}`);
    expect((await Sandbox.getInfo(id, connectionTo(shared))).state).toBe("paused");
    await expect.poll(rows).toEqual([expect.stringContaining("paused")]);
    await page.keyboard.press("p");
    await sees("#status", `Resumed ${id}`);
    expect((await Sandbox.getInfo(id, connectionTo(shared))).state).toBe("running");
    await sees("#waterfall caption", "resumed");
  });

  test("F forks a sandbox, arrows choose one, and E gives it more time", async () => {
    const id = await selected();
    await page.keyboard.press("f");
    await sees("#status", `Forked ${id}`);
    await expect.poll(rows).toHaveLength(2);
    const child = await selected();
    expect(child).not.toBe(id);
    await page.keyboard.press("ArrowDown");
    await expect.poll(async () => [await selected(), await focused()]).toEqual([id, id]);
    await page.keyboard.press("ArrowUp");
    await expect.poll(selected).toBe(child);
    const { endAt } = await Sandbox.getInfo(child, connectionTo(shared));
    await page.keyboard.press("e");
    await sees("#status", /^15 minutes/);
    expect((await Sandbox.getInfo(child, connectionTo(shared))).endAt.getTime()).toBeGreaterThan(endAt.getTime());
  });

  test("K asks before it kills, and Cancel is the first answer", async () => {
    const child = await selected();
    await page.keyboard.press("k");
    await page.waitForSelector("#kill-dialog[open]");
    await expect.poll(async () => [await textOf("#kill-name"), await focused()]).toEqual([child, "Cancel"]);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#kill-dialog:not([open])");
    expect(await sandboxIds(shared)).toContain(child);
    // Asked, dismissed and asked again before the browser has told the page that the dialog was closed.
    await page.evaluate(`(() => {
      const press = () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "k", bubbles: true }));
      const dialog = document.querySelector("#kill-dialog");
      press();
      return new Promise((resolve) => setTimeout(() => {
        dialog.close();
        press();
        resolve();
      }));
    })()`);
    await page.waitForSelector("#kill-dialog[open]");
    await expect.poll(focused).toBe("Cancel");
    await page.keyboard.press("Tab");
    await expect.poll(focused).toBe("Kill");
    await page.keyboard.press("Enter");
    await sees("#status", `Killed ${child}`);
    expect(await sandboxIds(shared)).not.toContain(child);
    await expect.poll(rows).toHaveLength(1);
  });

  test("text that guests and clients choose stays text, even if it looks like HTML", async () => {
    const sandbox = await Sandbox.create("base", { metadata: { [hostile]: hostile }, ...connectionTo(shared) });
    await expect.poll(async () => (await rows()).join()).toContain(sandbox.sandboxId);
    await page.click("#sandboxes tbody tr");
    await sees("#detail-metadata", "<img src=x");
    expect(await textOf("#detail-metadata")).toContain("\ufffd\ufffd");
    expect([await page.$$("main img"), await page.title()]).toEqual([[], "firkin"]);
    await sandbox.kill();
  });

  test("no test broke the security policy of the page, and nothing failed in it", () => {
    expect(problems).toEqual([]);
  });

  test("light and dark follow the system, and a narrow window has no second column", async () => {
    const ground = () => page.evaluate("getComputedStyle(document.body).backgroundColor");
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
    const light = await ground();
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    expect(await ground()).not.toBe(light);
    await page.setViewport({ width: 420, height: 800 });
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(420);
  });
});
