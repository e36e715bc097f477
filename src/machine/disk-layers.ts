/** The layers of a snapshot's disk, as they are put into a machine's folder. Engines differ in what a layer is. */
import { extname, join } from "node:path";
import type { SnapshotFile, SnapshotManifest } from "./driver.ts";
import { linkFile } from "./link-file.ts";

/** A snapshot's top layer up to this size is copied for each machine; a larger one becomes a layer that is only read. */
export const copyLimitBytes = 16 << 20;
/** With this many layers the top one is copied at any size, so that chains stay short. */
const maxLayers = 8;

/** What an engine knows about layers. */
export interface LayerFormat {
  /** Makes the writable layer from the top layer of the snapshot. */
  readonly copyTop: (path: string) => Promise<void>;
  readonly makeEmpty: () => Promise<void>;
}

/**
 * Puts the layers of a snapshot's disk into a machine's folder: the writable one as the format has it, others as links.
 * @returns the layers that are only read, top first, with their names in the machine's folder
 */
export async function placeLayers(
  source: { readonly folder: string; readonly manifest: Pick<SnapshotManifest, "files" | "lowerLayers"> },
  folder: string,
  { copyTop, makeEmpty }: LayerFormat,
): Promise<SnapshotFile[]> {
  const { files, lowerLayers: lower } = source.manifest;
  const { disk } = files;
  const top = join(source.folder, disk.name);
  const linkLower = lower.map(({ name }) => linkFile(join(source.folder, name), join(folder, name)));
  if (disk.sizeBytes <= copyLimitBytes || lower.length + 1 >= maxLayers) {
    await Promise.all([...linkLower, copyTop(top)]);
    return [...lower];
  }
  const frozen = { ...disk, name: `layer-${lower.length + 1}${extname(disk.name)}` };
  await Promise.all([...linkLower, linkFile(top, join(folder, frozen.name)), makeEmpty()]);
  return [frozen, ...lower];
}
