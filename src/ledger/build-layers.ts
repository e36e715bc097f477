/**
 * The layers of builds: snapshots of machines after a step, by keys over everything that made them. A layer keeps its
 * snapshot from being struck off.
 */
import { z } from "zod";
import { fromJson, textMap } from "./json-columns.ts";
import type { Ledger } from "./open.ts";
import type { TemplateDefaults } from "./templates.ts";

export interface BuildLayer {
  readonly key: string;
  readonly snapshotId: string;
  readonly folder: string;
  /** What the next step begins with. */
  readonly context: TemplateDefaults;
  /** Its share of the disk. */
  readonly sizeBytes: number;
  readonly usedAtMs: number;
}

interface LayerRow {
  readonly key: string;
  readonly snapshot_id: string;
  readonly folder: string;
  readonly context: string;
  readonly size_bytes: number;
  readonly used_at_ms: number;
}

const storedContext = z.object({ envs: textMap, user: z.string(), workdir: z.string() });
const layerRows = `select l.key, l.snapshot_id, s.folder, l.context, l.size_bytes, l.used_at_ms
  from build_layers l join snapshots s on s.id = l.snapshot_id`;

/** Adds a layer whose snapshot is ready; another one with its key gives way. */
export function putLayer(
  ledger: Ledger,
  layer: Pick<BuildLayer, "key" | "snapshotId" | "context" | "sizeBytes">,
): void {
  const { key, snapshotId, sizeBytes } = layer;
  const context = JSON.stringify(layer.context);
  ledger.write(() => {
    ledger
      .statement(
        `insert into build_layers (key, snapshot_id, context, size_bytes, created_at_ms, used_at_ms)
         values (:key, :snapshotId, :context, :sizeBytes, :nowMs, :nowMs)
         on conflict do update set snapshot_id = :snapshotId, context = :context, size_bytes = :sizeBytes,
           created_at_ms = :nowMs, used_at_ms = :nowMs`,
      )
      .run({ key, snapshotId, context, sizeBytes, nowMs: ledger.nowMs() });
  });
}

/** The layer with this key, if its snapshot may be restored; it counts as used now. */
export function useLayer(ledger: Ledger, key: string): BuildLayer | undefined {
  return ledger.write(() => {
    const row = ledger.statement<LayerRow>(`${layerRows} where l.key = :key and s.state = 'ready'`).get({ key });
    if (!row) return undefined;
    ledger
      .statement("update build_layers set used_at_ms = :nowMs where key = :key")
      .run({ key, nowMs: ledger.nowMs() });
    return toLayer(row);
  });
}

/** All layers, the one that was used longest ago first. */
export function listLayers(ledger: Ledger): BuildLayer[] {
  return ledger.statement<LayerRow>(`${layerRows} order by l.used_at_ms, l.key`).all({}).map(toLayer);
}

export function isLayer(ledger: Ledger, snapshotId: string): boolean {
  return (
    ledger.statement("select 1 from build_layers where snapshot_id = :snapshotId").get({ snapshotId }) !== undefined
  );
}

/** Forgets a layer. Its snapshot stays until nothing else needs it and it is struck off. */
export function dropLayer(ledger: Ledger, key: string): void {
  ledger.write(() => void ledger.statement("delete from build_layers where key = :key").run({ key }));
}

function toLayer(row: LayerRow): BuildLayer {
  return {
    key: row.key,
    snapshotId: row.snapshot_id,
    folder: row.folder,
    context: fromJson(storedContext, row.context, `build_layers.context of ${row.key}`),
    sizeBytes: row.size_bytes,
    usedAtMs: row.used_at_ms,
  };
}
