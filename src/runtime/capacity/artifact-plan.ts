/** The plan of a collection: the artifacts that may be removed, and their order. Pure. */

export type ArtifactKind = "asset" | "engine" | "upload" | "quarantined";

/** A file or folder on the disk that something may need. */
export interface Artifact {
  /** The path, or the id in the quarantine. */
  readonly name: string;
  readonly kind: ArtifactKind;
  readonly atMs: number;
}

/** The names that each name needs. Names that are no artifacts (snapshots, sandboxes) are links of the chain, too. */
export type Needs = ReadonlyMap<string, readonly string[]>;

/** The roots, and everything that they need directly or through others. Circles are fine. */
export function reachable(roots: Iterable<string>, needs: Needs): Set<string> {
  const found = new Set<string>();
  const open = [...roots];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (found.has(name)) continue;
    found.add(name);
    open.push(...(needs.get(name) ?? []));
  }
  return found;
}

/**
 * The artifacts that may go, oldest first. The quarantine, which a person may still want to look at, comes last.
 * @param youngestMs a younger artifact may belong to work that has not written it down yet
 */
export function planCollection(
  artifacts: readonly Artifact[],
  needed: ReadonlySet<string>,
  youngestMs: number,
): Artifact[] {
  const rank = ({ kind }: Artifact) => (kind === "quarantined" ? 1 : 0);
  return artifacts
    .filter(({ name, atMs }) => !needed.has(name) && atMs <= youngestMs)
    .sort((one, other) => rank(one) - rank(other) || one.atMs - other.atMs);
}
