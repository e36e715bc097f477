/** The rows of computing: programs in a sandbox beside the same programs on this host, which is the raw baseline. */
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import { NativePrograms } from "../native-programs.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

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

export const computeRows: RowFamily = {
  name: "compute",
  async measure({ daemon: { client }, raw: engine, quick, progress }: Bench) {
    await using native = await NativePrograms.of(engine.baseDisk);
    const sandbox = await client.create();
    try {
      await Promise.all([client.command(sandbox, prepare), native.shell(prepare)]);
      const rows: Row[] = [];
      for (const { what, script, goal } of programs) {
        progress(`${what}, on the host and in a sandbox in turn`);
        const samples = (rounds: number) =>
          interleave(
            rounds,
            () => timeMs(() => native.shell(script)),
            () => timeMs(() => client.command(sandbox, script)),
          );
        await samples(1);
        const { raw, measured } = await samples(quick ? 3 : 20);
        const [ours, theirs] = [distributionOf(measured), distributionOf(raw)];
        const ratio = ours.p50 / theirs.p50;
        const result = `${ratio.toFixed(2)} × host`;
        rows.push({
          what: native.areOfBaseDisk ? what : `${what} (raw: the host's own programs)`,
          goal: `≤ ${goal} × host`,
          unit: "ms",
          measured: ours,
          raw: theirs,
          result,
          met: ratio <= goal,
        });
      }
      return rows;
    } finally {
      await client.kill(sandbox);
      await native.shell("rm -f /tmp/firkin-bench-100");
    }
  },
};
