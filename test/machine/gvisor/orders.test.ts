/** The orders of a keeper, over a socket at which the test answers. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Orders } from "../../../src/machine/gvisor/orders.ts";

describe("the orders of a keeper", () => {
  let folder = "";
  let server: Server;
  const connections: Socket[] = [];
  const path = () => join(folder, "orders");

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "fk-"));
    connections.length = 0;
    server = createServer((socket) => void connections.push(socket.on("error", () => {}))).listen(path());
    await once(server, "listening");
  });
  afterEach(() => {
    for (const connection of connections) connection.destroy();
    server.close();
    rmSync(folder, { recursive: true });
  });

  test("an order after one that was late goes over another connection, and is not given the late answer", async () => {
    const orders = await Orders.connect(path());
    await expect(orders.give("pause m", 20)).rejects.toMatchObject({ code: "deadline_exceeded" });
    const state = orders.give("state");
    await expect.poll(() => connections.length).toBe(2);
    connections[0]?.write("ok\n");
    connections[1]?.write("ok paused\n");
    expect(await state).toBe("paused");
    orders.close();
    await expect(orders.give("state")).rejects.toThrow("the machine's keeper has ended");
  });

  test("an order to a keeper that ends, or has ended, fails", async () => {
    const orders = await Orders.connect(path());
    await expect.poll(() => connections.length).toBe(1);
    const state = orders.give("state");
    server.close();
    connections[0]?.destroy();
    await expect(state).rejects.toThrow("the machine's keeper has ended");
    await orders.closed;
    await expect(orders.give("state")).rejects.toThrow("the machine's keeper has ended");
  });
});
