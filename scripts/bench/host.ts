/** What the numbers were measured on. */
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import type { EngineInfo } from "../../src/machine/driver.ts";

export interface Host {
  readonly date: string;
  readonly engine: string;
  readonly engineVersion: string;
  readonly acceleration: string;
  readonly cores: number;
  readonly memoryMiB: number;
  readonly cpuModel: string;
  readonly kernel: string;
  readonly distribution: string;
  readonly node: string;
}

export function describeHost({ engine, version, acceleration }: EngineInfo): Host {
  return {
    date: new Date().toISOString(),
    engine,
    engineVersion: version,
    acceleration,
    cores: availableParallelism(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    cpuModel: cpus()[0]?.model ?? "unknown",
    kernel: release(),
    distribution: /^PRETTY_NAME="(.*)"$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "unknown",
    node: process.version,
  };
}

/** One line for above the table. */
export function hostLine(host: Host): string {
  const { engine, engineVersion, acceleration, cores, memoryMiB, cpuModel, kernel, distribution, node, date } = host;
  const machine = `${cores} cores (${cpuModel}), ${(memoryMiB / 1024).toFixed(0)} GiB, ${distribution}, Linux ${kernel}`;
  return `${engine} ${engineVersion}, ${acceleration}; ${machine}; Node ${node}; ${date}`;
}
