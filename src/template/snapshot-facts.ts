/** What the ledger keeps of a snapshot's manifest. */
import { createHash } from "node:crypto";
import type { SnapshotFacts } from "../ledger/snapshots.ts";
import type { SnapshotManifest } from "../machine/driver.ts";

export function factsOf(manifest: SnapshotManifest): SnapshotFacts {
  const { engine, engineVersion, acceleration, cpuModel, files } = manifest;
  return {
    engine,
    engineVersion,
    acceleration,
    cpuModel,
    memoryBytes: files.memory?.sizeBytes ?? 0,
    devicesBytes: files.memory ? files.devices.sizeBytes : 0,
    diskBytes: files.disk.sizeBytes,
    manifestSha256: createHash("sha256").update(JSON.stringify(manifest)).digest("hex"),
  };
}
