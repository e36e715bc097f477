/** The plan of a collection over any needs: exactly the artifacts that no root can reach go, in the promised order. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Artifact, planCollection, reachable } from "../../../src/runtime/capacity/artifact-plan.ts";

const size = 24;
const name = (index: number) => `n${index}`;
const node = fc.integer({ min: 0, max: size - 1 });
const graphs = fc.record({
  kinds: fc.array(fc.constantFrom("asset", "upload", "quarantined", "none"), { minLength: size, maxLength: size }),
  ages: fc.array(fc.integer({ min: 0, max: 100 }), { minLength: size, maxLength: size }),
  edges: fc.array(fc.tuple(node, node), { maxLength: 60 }),
  /** Sandboxes, templates, snapshots and warm machines. */
  roots: fc.array(node, { maxLength: 8 }),
  youngestMs: fc.integer({ min: 0, max: 100 }),
});

/** Whether a way leads from one of `roots` to `target`, found the slow way: edge by edge until nothing changes. */
function isNeeded(target: number, roots: readonly number[], edges: readonly (readonly [number, number])[]): boolean {
  const needed = new Set(roots);
  for (let before = -1; before !== needed.size; ) {
    before = needed.size;
    for (const [from, to] of edges) if (needed.has(from)) needed.add(to);
  }
  return needed.has(target);
}

test("no needed artifact goes, every other one that is old enough goes, and the quarantine is last", () => {
  fc.assert(
    fc.property(graphs, ({ kinds, ages, edges, roots, youngestMs }) => {
      const artifacts = kinds.flatMap((kind, index): Artifact[] =>
        kind === "none" ? [] : [{ name: name(index), kind, atMs: ages[index] ?? 0 }],
      );
      const needs = new Map(
        kinds.map((_, index) => [name(index), edges.filter(([from]) => from === index).map(([, to]) => name(to))]),
      );
      const plan = planCollection(artifacts, reachable(roots.map(name), needs), youngestMs);
      const expected = artifacts.filter(
        (artifact) => artifact.atMs <= youngestMs && !isNeeded(Number(artifact.name.slice(1)), roots, edges),
      );
      expect(new Set(plan)).toEqual(new Set(expected));
      for (const [at, later] of plan.entries()) {
        const earlier = plan[at - 1];
        if (!earlier) continue;
        if (later.kind !== "quarantined") expect(earlier.kind).not.toBe("quarantined");
        if (later.kind === earlier.kind) expect(earlier.atMs).toBeLessThanOrEqual(later.atMs);
      }
    }),
  );
});
