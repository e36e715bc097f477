/** Files of ours in the tree of an image. */
import type { BlockFile } from "./block-file.ts";
import { type Inode, newDirectory, type Tree } from "./tree.ts";

export interface GapPlace {
  readonly tree: Tree;
  readonly disk: BlockFile;
}

export function placeFile({ tree, disk }: GapPlace, path: string, content: Buffer, mode: number): void {
  const runs = disk.store(content);
  tree.place(path, { ...ours(mode), kind: "file", sizeBytes: content.length, runs });
}

export const folder = (mode: number) => newDirectory(ours(mode));
export const link = (target: string): Inode => ({ ...ours(0o777), kind: "symlink", target });
const ours = (mode: number) => ({
  mode,
  uid: 0,
  gid: 0,
  mtimeS: Math.floor(Date.now() / 1000),
  xattrs: undefined,
});
