/** Layers on the host's disk, unpacked: their compression, their digest, and the bounds of what they may unpack to. */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import * as zlib from "node:zlib";
import { DomainError, messageOf } from "../../errors.ts";

/** A layer of an image, whose compressed file is on this host and has been compared with its digest. */
export interface LayerFile {
  readonly path: string;
  readonly sizeBytes: number;
  /** `sha256:…` of what it unpacks to. */
  readonly diffId: string;
}

const chunkBytes = 256 * 1024;
/** A layer that unpacks to more than this is a bomb: text of one letter reaches 1000. */
const maxRatio = 200;
const freeBytes = 64 * 2 ** 20;
/** Memory that zstd may take for its window. */
const zstdMemoryMiB = 128;

type Compression = "none" | "gzip" | "zstd";

/**
 * Unpacks a layer.
 * @param take gets all of it, in pieces
 * @throws DomainError `failed_precondition` when it is damaged, is not what its image says, or unpacks to too much;
 *   `unsupported` without a program for zstd; what `take` throws
 */
export async function unpackLayer(layer: LayerFile, take: (bytes: Buffer) => void): Promise<void> {
  const limitBytes = layer.sizeBytes * maxRatio + freeBytes;
  const hash = createHash("sha256");
  let unpackedBytes = 0;
  await decompress(layer, (bytes) => {
    unpackedBytes += bytes.length;
    if (unpackedBytes > limitBytes) throw bad(`a layer of ${layer.sizeBytes} bytes unpacks to more than ${limitBytes}`);
    hash.update(bytes);
    take(bytes);
  });
  const digest = `sha256:${hash.digest("hex")}`;
  if (digest !== layer.diffId) throw bad(`a layer unpacks to ${digest}, and its image says ${layer.diffId}`);
}

async function decompress(layer: LayerFile, take: (bytes: Buffer) => void): Promise<void> {
  const compression = await compressionOf(layer.path);
  const source = createReadStream(layer.path, { highWaterMark: chunkBytes });
  // A pipeline that its consumer breaks off says that it was aborted, and not why.
  let refusal: unknown;
  const consume = async (stream: AsyncIterable<unknown>) => {
    for await (const piece of stream) {
      try {
        take(piece as Buffer);
      } catch (error) {
        refusal = error;
        throw error;
      }
    }
  };
  const unpacker = compression === "gzip" ? zlib.createGunzip({ chunkSize: chunkBytes }) : zstdInNode();
  try {
    if (compression === "none") await pipeline(source, consume);
    else if (unpacker) await pipeline(source, unpacker, consume);
    else await throughZstd(source, consume);
  } catch (error) {
    if (refusal !== undefined) throw refusal;
    if (error instanceof DomainError || compression === "none") throw error;
    throw bad(`a layer cannot be unpacked (${compression}): ${messageOf(error)}`);
  }
}

/** By its first bytes, which tell the truth more often than the type that a registry gives it. */
async function compressionOf(path: string): Promise<Compression> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    const magic = buffer.subarray(0, bytesRead).toString("hex");
    if (magic.startsWith("1f8b")) return "gzip";
    // A frame, or one of the sixteen kinds that are to be skipped.
    return magic === "28b52ffd" || /^5.2a4d18$/.test(magic) ? "zstd" : "none";
  } finally {
    await file.close();
  }
}

/** Node has it from 22.15 on. */
function zstdInNode(): NodeJS.ReadWriteStream | undefined {
  const { createZstdDecompress } = zlib as { createZstdDecompress?: () => NodeJS.ReadWriteStream };
  return createZstdDecompress?.();
}

async function throughZstd(
  source: Readable,
  consume: (stream: AsyncIterable<unknown>) => Promise<void>,
): Promise<void> {
  const child: ChildProcessByStdio<Writable, Readable, Readable> = spawn(
    "zstd",
    ["--decompress", "--stdout", "--quiet", `--memory=${zstdMemoryMiB}MB`],
    { stdio: ["pipe", "pipe", "pipe"] },
  );
  let complaint = "";
  child.stderr.on("data", (bytes: Buffer) => {
    if (complaint.length < 1000) complaint += bytes.toString();
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) => reject(error.code === "ENOENT" ? noZstd() : error));
    child.once("close", resolve);
  });
  try {
    // A program that gives up closes its input first; its exit status says why.
    const feeding = pipeline(source, child.stdin).catch((error: NodeJS.ErrnoException) => {
      if (!["EPIPE", "ERR_STREAM_PREMATURE_CLOSE"].includes(error.code ?? "")) throw error;
    });
    await Promise.all([feeding, pipeline(child.stdout, consume), ended]);
  } finally {
    child.kill("SIGKILL");
  }
  if ((await ended) !== 0) throw new Error(complaint.trim() || "zstd failed");
}

function noZstd(): DomainError {
  const message =
    "a layer of the image is compressed with zstd, which Node.js 20 cannot unpack: install the program zstd";
  return new DomainError("unsupported", message);
}

function bad(why: string): DomainError {
  return new DomainError("failed_precondition", `the image cannot be used: ${why}`);
}
