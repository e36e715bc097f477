/** The runner of set-up steps: order, parallelism, skipping, and what a failure does to the others. */
import { expect, test } from "vitest";
import { runGraph, type Step } from "../../scripts/setup/graph.mjs";
import { closedGate } from "../support/fakes/gate.ts";

const quiet = { started: () => {}, line: () => {}, done: () => {}, failed: () => {} };
const never = new AbortController().signal;

function makeStep(
  name: string,
  needs: readonly string[],
  run: Step["run"],
  isDone: Step["isDone"] = () => false,
): Step {
  return { name, title: name, needs, isDone, run };
}

test("a step runs after its needs, independent ones at the same time", async () => {
  const order: string[] = [];
  const bothRun = closedGate();
  const waiting = (name: string) => async () => {
    order.push(name);
    if (order.length === 3) bothRun.open();
    await bothRun.opened;
  };
  const steps = [
    makeStep("first", [], async () => order.push("first")),
    makeStep("left", ["first"], waiting("left")),
    makeStep("right", ["first"], waiting("right")),
    makeStep("last", ["left", "right"], async () => order.push("last")),
  ];
  expect(await runGraph(steps, { signal: never, observer: quiet })).toBe(4);
  expect(order[0]).toBe("first");
  expect(order.slice(1, 3).sort()).toEqual(["left", "right"]);
  expect(order[3]).toBe("last");
});

test("a step that is done is not run again, and nothing is prepared when all are done", async () => {
  const forbidden = async () => {
    throw new Error("must not run");
  };
  const steps = [makeStep("a", [], forbidden, () => true), makeStep("b", ["a"], forbidden, () => true)];
  expect(await runGraph(steps, { signal: never, observer: quiet, beforeWork: forbidden })).toBe(0);
});

test("a step that another set-up did during the wait for the lock is not run again", async () => {
  let done = false;
  const steps = [
    makeStep(
      "a",
      [],
      () => Promise.reject(new Error("must not run")),
      () => done,
    ),
  ];
  const beforeWork = () => {
    done = true;
  };
  expect(await runGraph(steps, { signal: never, observer: quiet, beforeWork })).toBe(0);
});

test("the first failure ends the other steps, starts no further step and is thrown", async () => {
  const failed: string[] = [];
  const steps = [
    makeStep(
      "slow",
      [],
      ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("ended")))),
    ),
    makeStep("bad", [], () => Promise.reject(new Error("broken"))),
    makeStep("after", ["slow"], () => Promise.reject(new Error("must not run"))),
  ];
  const observer = { ...quiet, failed: (step: Step) => failed.push(step.name) };
  await expect(runGraph(steps, { signal: never, observer })).rejects.toThrow("broken");
  expect(failed).toEqual(["bad"]);
});

test("an interruption is thrown and is not shown as the failure of a step", async () => {
  const interrupt = new AbortController();
  const failed: string[] = [];
  const step = makeStep("slow", [], ({ signal }) => {
    const end = new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("ended"))));
    interrupt.abort(new Error("interrupted"));
    return end;
  });
  const observer = { ...quiet, failed: (failing: Step) => failed.push(failing.name) };
  await expect(runGraph([step], { signal: interrupt.signal, observer })).rejects.toThrow("interrupted");
  expect(failed).toEqual([]);
});
