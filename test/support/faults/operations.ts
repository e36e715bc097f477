/** The operations in which faults strike: one for each family of lifecycle steps, and what it leaves to be seen. */
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { Sandbox, Template, type TemplateBuilder } from "e2b";
import type { LifecycleStep } from "../../../src/lifecycle-steps.ts";
import { connectionTo } from "../daemon/requests.ts";
import { startCounter } from "../guest/memory-counter.ts";
import { makeImage } from "../images/make-image.ts";
import { TestRegistry } from "../images/registry.ts";
import type { FaultWorld, PoolSize } from "./world.ts";

export type Family = LifecycleStep extends `${infer F}.${string}` ? F : never;

export interface Operation {
  readonly pool: PoolSize;
  /** Brings the world to where the operation can begin. */
  prepare(world: FaultWorld): Promise<unknown>;
  /** Sends the request of a client; undefined when the daemon died before it answered. */
  act(world: FaultWorld): Promise<Response | undefined>;
  /** The outcome in words, after everything that is left was used and worked. */
  outcome(world: FaultWorld): Promise<string>;
}

const json = { templateID: "base", timeout: 900 };

export const operations: Readonly<Record<Family, Operation>> = {
  create: {
    pool: 0,
    prepare: nothing,
    act: (world) => world.post("/sandboxes", json),
    outcome: othersWork("sandbox"),
  },
  pool: {
    pool: 1,
    prepare: poolIsFull,
    act: (world) => world.post("/sandboxes", json),
    outcome: othersWork("sandbox"),
  },
  refill: {
    pool: 1,
    // The create takes a warm machine then, and the one that a fault is to hit is the only one that starts.
    prepare: poolIsFull,
    act: (world) => world.post("/sandboxes", json),
    outcome: async (world) => {
      await poolIsFull(world);
      return "pool full";
    },
  },
  pause: {
    pool: 0,
    prepare: (world) => world.subjectIs("running"),
    act: (world) => world.post(`/sandboxes/${world.subject.id}/pause`),
    outcome: subjectWorks,
  },
  resume: {
    pool: 0,
    prepare: (world) => world.subjectIs("paused"),
    act: (world) => world.post(`/sandboxes/${world.subject.id}/resume`, { timeout: 900 }),
    outcome: subjectWorks,
  },
  fork: {
    pool: 0,
    prepare: (world) => world.subjectIs("running"),
    act: (world) => world.post(`/sandboxes/${world.subject.id}/fork`, { timeout: 900 }),
    outcome: sourceAndChild,
  },
  followup: {
    pool: 0,
    prepare: (world) => world.subjectIs("paused"),
    act: (world) => world.post("/sandboxes/followups", { sandboxID: world.subject.id, timeout: 900 }),
    outcome: sourceAndChild,
  },
  snapshot: {
    pool: 0,
    prepare: (world) => world.subjectIs("running"),
    act: (world) => world.post(`/sandboxes/${world.subject.id}/snapshots`),
    outcome: async (world) => {
      const snapshots = await snapshotsOf(world);
      return `${await subjectWorks(world)}, ${snapshots.length === 0 ? "no snapshot" : "snapshot kept"}`;
    },
  },
  build: {
    pool: 0,
    prepare: nothing,
    act: (world) => startBuild(world, Template().skipCache().fromTemplate("base")),
    outcome: buildOutcome,
  },
  image: {
    pool: 0,
    prepare: nothing,
    // Another image each time, so that none is in the cache. The steps of builds come to be run each time, too.
    act: async (world) =>
      startBuild(
        world,
        Template()
          .skipCache()
          .fromImage(await newImage()),
      ),
    outcome: buildOutcome,
  },
  kill: {
    pool: 0,
    prepare: (world) => world.subjectIs("running"),
    act: (world) => world.delete(`/sandboxes/${world.subject.id}`),
    outcome: subjectWorks,
  },
};

export function familyOf(step: LifecycleStep): Family {
  return step.slice(0, step.indexOf(".")) as Family;
}

/** Removes everything that an operation made. */
export async function cleanUp(world: FaultWorld): Promise<void> {
  for (const id of await world.others()) await world.delete(`/sandboxes/${id}`);
  for (const { snapshotID } of await snapshotsOf(world)) await world.delete(`/templates/${snapshotID}`);
  for (const { templateID } of await buildsOf(world)) await world.delete(`/templates/${templateID}`);
}

const buildName = "faulty";

async function nothing(): Promise<void> {}

/** The route answers 202 when the build was started; undefined when the daemon died before. */
async function startBuild(world: FaultWorld, from: TemplateBuilder): Promise<Response | undefined> {
  const template = from.runCmd("echo built > /home/user/built");
  return Template.buildInBackground(template, buildName, connectionTo(world.daemon)).then(
    () => new Response(null, { status: 202 }),
    () => undefined,
  );
}

let registry: Promise<TestRegistry> | undefined;

async function newImage(): Promise<string> {
  registry ??= TestRegistry.open();
  const name = randomUUID();
  return (await registry).add(name, makeImage({ layers: [[{ path: "name", content: name }]] }));
}

async function poolIsFull(world: FaultWorld): Promise<void> {
  const isFull = async () => {
    const text = await (await fetch(`${world.daemon.url}/metrics`)).text();
    return /firkin_warm_pool_depth\{state="ready"\} 1/.test(text);
  };
  const end = performance.now() + 60_000;
  while (!(await isFull())) {
    if (performance.now() > end) throw new Error("the warm pool does not fill");
    await delay(100);
  }
}

async function subjectWorks(world: FaultWorld): Promise<string> {
  const state = await world.stateOf(world.subject.id);
  if (state === "gone") return `gone: ${world.endReasonOf(world.subject.id)}`;
  await world.counts(world.subject);
  return state;
}

function othersWork(what: string) {
  return async (world: FaultWorld): Promise<string> => {
    const others = await world.others();
    for (const id of others) await startCounter(await Sandbox.connect(id, connectionTo(world.daemon)));
    return others.length === 0 ? `no ${what}` : `${what} works`;
  };
}

async function sourceAndChild(world: FaultWorld): Promise<string> {
  const children = await world.others();
  for (const id of children) await world.childCounts(id, world.subject);
  return `${await subjectWorks(world)}, ${children.length === 0 ? "no child" : "child works"}`;
}

function snapshotsOf(world: FaultWorld): Promise<{ snapshotID: string }[]> {
  return world.get("/snapshots");
}

async function buildsOf(world: FaultWorld): Promise<{ templateID: string; buildID: string; names?: string[] }[]> {
  const all = await world.get<{ templateID: string; buildID: string; names?: string[] }[]>("/templates");
  return all.filter(({ names }) => names?.some((name) => name.endsWith(buildName)));
}

async function buildOutcome(world: FaultWorld): Promise<string> {
  const [template] = await buildsOf(world);
  if (!template) return "no template";
  const { templateID, buildID } = template;
  const { status, reason } = await world.get<{ status: string; reason?: { message: string } }>(
    `/templates/${templateID}/builds/${buildID}/status?logsOffset=0`,
  );
  if (status !== "ready") return `${status}, ${reason?.message ? "with its reason" : "for no reason"}`;
  const sandbox = await Sandbox.create(templateID, { ...connectionTo(world.daemon), allowInternetAccess: false });
  await sandbox.files.read("/home/user/built");
  return "ready";
}
