/** What of the daemon's answers this page uses. */
export interface Sandbox {
  readonly sandboxID: string;
  readonly templateID: string;
  readonly alias?: string;
  readonly state: "running" | "paused";
  readonly startedAt: string;
  readonly endAt: string;
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly metadata: Readonly<Record<string, string>>;
}

export interface Metric {
  readonly cpuUsedPct: number;
  readonly memUsed: number;
  readonly memTotal: number;
}

export interface Sample {
  readonly span: string;
  readonly scenario: string;
  readonly durationMs: number;
  readonly at: string;
}

export interface Budget {
  readonly active: number;
  readonly warm: number;
  readonly limit: number;
}

export interface Capacity {
  readonly engine: string;
  readonly engineVersion: string;
  readonly acceleration: string;
  readonly sandboxes: Budget;
  readonly cpuCount: Budget;
  readonly memoryMB: Budget;
  readonly diskSizeMB: Budget;
  readonly warmPool: { readonly ready: number; readonly warming: number; readonly leaving: number };
  readonly pausedInMemory: number;
  readonly waiting: number;
}

export interface QuarantineEntry {
  readonly kind: string;
  readonly name: string;
  readonly reason: string;
  readonly at: string;
}
