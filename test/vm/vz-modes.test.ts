/** The conformance suite on simulated Macs of other kinds: with fan-out, and with a screen that was locked at the start. */
import { expect, test } from "vitest";
import { conformance } from "../machine/conformance.ts";
import { simulatedEngine } from "./vz-engine.ts";

conformance(await simulatedEngine("with fan-out", { fanOut: true }), (world) => {
  test("fan-out was found", () => expect(world().driver.info.abilities.fanOut).toEqual({ supported: true }));
});

conformance(await simulatedEngine("locked at the start", {}, true), (world) => {
  test("the driver was opened without a probe, and says why", () => {
    const { memorySnapshot, fanOut } = world().driver.info.abilities;
    expect(memorySnapshot).toEqual({ supported: false, reason: "the screen is locked" });
    expect(fanOut).toMatchObject({ supported: false, reason: expect.stringContaining("the screen is locked") });
  });
});
