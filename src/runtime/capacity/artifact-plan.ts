/** Which of the things that fill the disk may be given up, and in which order. Pure. */

export type ArtifactKind = "asset" | "upload" | "quarantined";

/** Something on the disk that is there for somebody, or for nobody any more. */
export interface Artifact {
  /** Its path, or its id in the quarantine. */
  readonly name: string;
  readonly kind: ArtifactKind;
  readonly atMs: number;
}

/** What stands on what. Names that are no artifacts (snapshots, sandboxes) are links of the chain like all others. */
export type Needs = ReadonlyMap<string, readonly string[]>;

/** Everything that the roots need, whether directly or through others, and they themselves. Circles are fine. */
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
 * What may go, oldest first; what somebody may still want to look at goes last.
 * @param youngestMs what is younger may belong to work that has not written it down yet
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
