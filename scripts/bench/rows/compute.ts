/** The rows of computing: programs in a sandbox beside the same programs on this host, which is the raw baseline. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import { NativePrograms } from "../native-programs.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

const run = promisify(execFile);

/** What is run, and the goal as a multiple of the host; the goals are those of the gvisor engine. */
const programs: readonly { readonly what: string; readonly script: string; readonly goal: number }[] = [
  { what: "Python loop, 5 million rounds", script: "python3 -c 'x=0\nfor i in range(5000000): x+=i'", goal: 1.15 },
  { what: "sha256sum of 100 MB", script: "sha256sum /tmp/firkin-bench-100", goal: 1.15 },
  { what: "gzip of 20 MB", script: "head -c 20000000 /tmp/firkin-bench-100 | gzip -1 | wc -c", goal: 1.15 },
  { what: "Node.js loop, 100 million rounds", script: "node -e 'let x=0;for(let i=0;i<1e8;i++)x+=i'", goal: 1.15 },
  {
    what: "imports of Python",
    script: "python3 -c 'import json,re,asyncio,http.client,sqlite3'",
    goal: 1.3,
  },
  { what: "node -e 0", script: "node -e 0", goal: 1.5 },
  {
    what: "git init, add, commit",
    script:
      "d=$(mktemp -d) && cd $d && git init -q && echo a >a && git add a && " +
      "git -c user.email=a@b -c user.name=a commit -qm a && rm -rf $d",
    goal: 2,
  },
  { what: "200 forks", script: "for i in $(seq 200); do /bin/true; done", goal: 5 },
];

const prepare = "head -c 100000000 /dev/urandom > /tmp/firkin-bench-100";

/** The raw baseline is what the host itself has under these names; beside it stands the very program of the sandbox. */
export const computeRows: RowFamily = {
  name: "compute",
  async measure({ daemon: { client }, raw: engine, quick, progress }: Bench) {
    await using native = await NativePrograms.of(engine.baseDisk);
    const onHost = (script: string) => run("bash", ["-l", "-c", script]);
    const rounds = quick ? 3 : 12;
    const sandbox = await client.create();
    try {
      await Promise.all([client.command(sandbox, prepare), onHost(prepare), native?.shell(prepare)]);
      const rows: Row[] = [];
      for (const { what, script, goal } of programs) {
        progress(`${what}, on the host and in a sandbox in turn`);
        const samples = (count: number) =>
          interleave(
            count,
            () => timeMs(() => onHost(script)),
            () => timeMs(() => client.command(sandbox, script)),
          );
        await samples(1);
        const { raw, measured } = await samples(rounds);
        const same: number[] = [];
        for (let round = 0; native && round < rounds; round++) {
          same.push(await timeMs(() => native.shell(script)));
        }
        const [ours, theirs] = [distributionOf(measured), distributionOf(raw)];
        const ratio = ours.p50 / theirs.p50;
        const sameRatio = same.length > 0 ? `, ${(ours.p50 / distributionOf(same).p50).toFixed(2)} × itself there` : "";
        rows.push({
          what,
          goal: `≤ ${goal} × host`,
          unit: "ms",
          measured: ours,
          raw: theirs,
          result: `${ratio.toFixed(2)} × host${sameRatio}`,
          met: ratio <= goal,
        });
      }
      return rows;
    } finally {
      await client.kill(sandbox);
      await onHost("rm -f /tmp/firkin-bench-100");
    }
  },
};
