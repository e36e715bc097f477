/** The part of pino-roll, which comes without types, that `log.ts` uses. */
declare module "pino-roll" {
  import type { EventEmitter } from "node:events";

  interface RollingFile extends EventEmitter {
    write(line: string): boolean;
    end(): void;
  }

  export default function roll(options: {
    readonly file: string;
    readonly size: string;
    readonly mode: number;
    readonly limit: { readonly count: number; readonly removeOtherLogFiles: boolean };
  }): Promise<RollingFile>;
}
