/**
 * Hostile guests on the real engine: five at once, each of which speaks the link protocol itself, harm only themselves.
 */
import type { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon } from "../support/daemon/real-daemon.ts";
import { call, createOn, logLines, reservations } from "../support/daemon/requests.ts";
import { flood, type HostileMode, turnHostile } from "../support/guest/hostile-sandbox.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines();

describe.skipIf(missing)(titleOf("hostile guests", missing), () => {
  let home: DaemonHome;
  let daemon: RealDaemon;
  let honest: Sandbox;

  beforeAll(async () => {
    home = await makeDaemonHome();
    daemon = await home.start();
    honest = await createOn(daemon);
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await home?.[Symbol.asyncDispose]();
  });

  const brokenLinks = (sandbox: Sandbox) =>
    logLines(daemon)
      .filter(({ msg, sandboxID }) => msg.startsWith("guest link broke") && sandboxID === sandbox.sandboxId)
      .map(({ err }) => (err as { message: string }).message);

  test("five at once are cut off or held back, while others are served", async () => {
    const modes: HostileMode[] = ["empty", "window", "tiny", "tiny", "list"];
    const guests = await Promise.all(modes.map(() => createOn(daemon)));
    await using _ = {
      [Symbol.asyncDispose]: async () => void (await Promise.all(guests.map((guest) => guest.kill()))),
    };
    await Promise.all(guests.map((guest, index) => turnHostile(guest, modes[index] as HostileMode)));
    const [empty, window, attached, left, list] = guests as [Sandbox, Sandbox, Sandbox, Sandbox, Sandbox];
    await Promise.all([
      // The links of these two may break before their clients know that the command has started.
      flood(empty, { stay: true }).catch(() => {}),
      flood(window, { stay: true }).catch(() => {}),
      flood(attached, { stay: true }),
      flood(left, { stay: false }),
    ]);
    const listing = list.files.list("/").then(() => "listed", String);

    for (let i = 0; i < 100; i++) expect((await call(daemon, "/health")).status).toBe(204);
    for (let i = 0; i < 20; i++) expect((await honest.commands.run(`echo ${i}`)).stdout).toBe(`${i}\n`);
    for (let i = 0; i < 5; i++) {
      const other = await createOn(daemon);
      expect((await other.commands.run("echo hi")).stdout).toBe("hi\n");
      await other.kill();
    }

    await expect.poll(() => brokenLinks(empty)[0]).toBe("The guest broke the link protocol: DATA without bytes");
    await expect.poll(() => brokenLinks(window)[0]).toBe("The guest broke the link protocol: a wrong WINDOW");
    expect(await listing).toContain("the listing has over 16 MiB");
    // These two kept to the protocol, and have their links and their lives.
    expect([...brokenLinks(attached), ...brokenLinks(left), ...brokenLinks(honest)]).toEqual([]);
    await Promise.all(guests.map((guest) => guest.kill()));
    expect((await honest.commands.run("echo still here")).stdout).toBe("still here\n");
    await expect.poll(() => reservations(daemon)).toBe(1);
  }, 600_000);

  test("an agent that lists a large folder twenty times at once answers pings meanwhile", async () => {
    const deep = Array.from({ length: 15 }, () => "d".repeat(250)).join("/");
    await honest.commands.run(
      `python3 -c '
import os
os.makedirs("/tmp/${deep}")
os.chdir("/tmp/${deep}")
open("first", "w").close()
for i in range(50000): os.link("first", f"entry-{i}")
'`,
      { timeoutMs: 0 },
    );
    const done: string[] = [];
    const listings = Array.from({ length: 20 }, () =>
      honest.files.list(`/tmp/${deep}`).then(
        () => done.push("listed"),
        (error: Error) => done.push(error.message),
      ),
    );
    // A look at a file needs a turn of the agent, as a ping does.
    for (let i = 0; i < 5; i++) expect(await honest.files.exists("/etc/passwd")).toBe(true);
    expect(done).toEqual([]);
    await Promise.all(listings);
    expect(done.every((message) => message.includes("MiB"))).toBe(true);
    expect((await honest.commands.run("echo still here")).stdout).toBe("still here\n");
  }, 600_000);
});
