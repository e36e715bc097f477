import { expect, test } from "vitest";
import { distributionOf, interleave, type Row, tableOf } from "../../../scripts/bench/statistics.ts";

const oneTo = (n: number) => Array.from({ length: n }, (_, index) => index + 1);

test("percentiles are by nearest rank, whatever the order of the samples", () => {
  expect(distributionOf(oneTo(100).reverse())).toEqual({ n: 100, p50: 50, p95: 95, p99: 99 });
  expect(distributionOf([3, 1, 2])).toEqual({ n: 3, p50: 2, p95: 3, p99: 3 });
  expect(distributionOf([7])).toEqual({ n: 1, p50: 7, p95: 7, p99: 7 });
});

test("no samples have no percentiles", () => {
  expect(distributionOf([])).toEqual({ n: 0, p50: Number.NaN, p95: Number.NaN, p99: Number.NaN });
});

test("raw and measured samples alternate, and the first changes every round", async () => {
  const order: string[] = [];
  const take = (who: string) => async () => order.push(who);
  const samples = await interleave(3, take("raw"), take("ours"));
  expect(order).toEqual(["raw", "ours", "ours", "raw", "raw", "ours"]);
  expect(samples).toEqual({ raw: [1, 4, 5], measured: [2, 3, 6] });
});

test("a failed sample ends the measurement", async () => {
  const fail = async () => {
    throw new Error("no answer");
  };
  await expect(interleave(2, async () => 1, fail)).rejects.toThrow("no answer");
});

const row: Row = { what: "w", goal: "g", unit: "ms", measured: distributionOf(oneTo(99)), result: "r", met: false };
const run = (engine: string, rows: readonly Row[]) => ({ engine, description: engine, rows });

test("the table shows only percentiles with enough samples, and tells which goals are missed", () => {
  const raw = distributionOf(oneTo(100));
  const rows = [
    row,
    { ...row, what: "w2", raw, met: true },
    { ...row, what: "w3", measured: distributionOf(oneTo(500)) },
  ];
  const [, , few, hundred, many] = tableOf([run("gvisor", rows)]).split("\n");
  expect(few).toBe("| w | g | 50.0 (n 99) ms | – | r | no |");
  expect(hundred).toBe("| w2 | g | 50.0 (n 99) ms | 50.0 / 95.0 (n 100) ms | r | yes |");
  expect(many).toBe("| w3 | g | 250 / 475 / 495 (n 500) ms | – | r | no |");
});

test("two engines stand side by side, each with its own goal, and a row that one lacks is left empty", () => {
  const other = { ...row, goal: "–", measured: distributionOf([7]), met: true };
  const table = tableOf([run("gvisor", [row, { ...row, what: "w2" }]), run("qemu", [other])]).split("\n");
  expect(table[0]).toMatch(/^\| what \| gvisor: goal \|.* \| qemu: goal \|.*\| qemu: met \|$/);
  expect(table[2]).toBe("| w | g | 50.0 (n 99) ms | – | r | no | – | 7.00 (n 1) ms | – | r | – |");
  expect(table[3]).toBe("| w2 | g | 50.0 (n 99) ms | – | r | no | – | – | – | – | – |");
});
