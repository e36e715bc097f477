/** The console's cell in a real browser, beside a stand-in for the code interpreter that answers with hostile output. */
import { readFile } from "node:fs/promises";
import type { Browser, Page } from "puppeteer-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findBrowser, openBrowser } from "../support/clients/browser.ts";
import { createSandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";

const browserPath = findBrowser();
const name = browserPath ? "cells" : "cells (skipped: there is no chromium-headless-shell or chromium)";
const service = new URL("fixtures/cell_service.py", import.meta.url);

describe.skipIf(skipReason || !browserPath)(name, () => {
  let browser: Browser;
  let page: Page;
  let made: Awaited<ReturnType<typeof createSandbox>>;
  const problems: string[] = [];

  beforeAll(async () => {
    const { url, apiKey } = sharedDaemon();
    made = await createSandbox();
    browser = await openBrowser(browserPath ?? "");
    page = await browser.newPage();
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" && !message.text().includes("status of 502")) problems.push(message.text());
    });
    await page.setViewport({ width: 1280, height: 800 });
    await page.goto(`${url}/#key=${apiKey}`);
    const row = await page.waitForSelector(`xpath///tr[contains(., '${made.sandbox.sandboxId}')]`);
    await row?.click();
  });
  afterAll(async () => {
    await browser?.close();
    await made?.[Symbol.asyncDispose]();
  });

  const textOf = (selector: string) => page.$eval(selector, (found) => found.textContent ?? "").catch(() => "");
  const note = () => textOf(".cell header .muted");
  /** Types a cell in place of the one that is there, and runs it by keyboard. */
  const runCell = async (code: string) => {
    await page.$eval(".cell textarea", (field) => {
      (field as unknown as { value: string }).value = "";
    });
    await page.type(".cell textarea", code);
    await page.keyboard.down("Control");
    await page.keyboard.press("Enter");
    await page.keyboard.up("Control");
  };

  test("a sandbox without the service says so", async () => {
    await page.keyboard.press("c");
    await runCell("1");
    await expect.poll(note).toBe("This sandbox has no code interpreter.");
  });

  test("output, images, tables and errors are shown, and nothing of them is HTML or script", async () => {
    await made.sandbox.files.write("/tmp/service.py", await readFile(service, "utf8"));
    await made.sandbox.commands.run("exec python3 /tmp/service.py", { background: true, timeoutMs: 0 });
    await expect
      .poll(async () => {
        await runCell("1");
        await expect.poll(note).not.toMatch(/^running/);
        return await note();
      })
      .toBe("done");
    expect(await textOf(".cell pre.stdout")).toMatch(/^one\ntwo <img src=x onerror=.*\ufffd\n$/);
    expect(await textOf(".cell pre.stderr")).toBe("oops\n");
    expect(await textOf(".cell pre.error")).toMatch(/^ValueError: <img src=x.*\nline 1$/);
    expect(await textOf(".cell pre.muted")).toContain("does not show");
    const cells = await page.$$eval(".cell td", (all) => all.map((cell) => cell.textContent));
    expect(cells).toEqual(["1", "", expect.stringContaining("<script>"), "2.5"]);
    const images = await page.$$eval(".cell img", (all) => all.map((image) => image.getAttribute("src")));
    expect(images).toEqual([expect.stringMatching(/^blob:/)]);
    await expect.poll(() => page.evaluate("document.querySelector('.cell img').naturalWidth")).toBe(1);
    expect(await page.title()).toBe("firkin");
  });

  test("a cell that goes on is interrupted by leaving it", async () => {
    await runCell("wait");
    await expect.poll(note).toBe("running [3]");
    await page.click("xpath///section[@class='cell']//button[text()='Interrupt']");
    await expect.poll(note).toBe("interrupted");
    await expect.poll(() => made.sandbox.files.exists("/tmp/left")).toBe(true);
  });

  test("nothing broke the security policy of the page, and nothing failed in it", () => {
    expect(problems).toEqual([]);
  });
});
