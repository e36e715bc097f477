/** A real browser for tests of the console, where Debian's package of one is installed. */
import { execFileSync } from "node:child_process";
import { connect, createServer, type Socket } from "node:net";
import { type Browser, launch } from "puppeteer-core";

const names = ["chromium-headless-shell", "chromium"];

/** The path of a browser; undefined where there is none. */
export function findBrowser(): string | undefined {
  const found = names.flatMap((name) => {
    try {
      return [execFileSync("which", [name], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim()];
    } catch {
      return [];
    }
  });
  return found[0];
}

/** Starts a browser. Its `close` ends every process of it. */
export function openBrowser(executablePath: string): Promise<Browser> {
  // A browser of root has no sandbox of its own, and this one sees only the console.
  return launch({ executablePath, headless: "shell", args: ["--no-sandbox", "--disable-gpu"] });
}

export interface BreakableLine extends AsyncDisposable {
  readonly url: string;
  /** Breaks every connection at once, and lets no other through until `mend`. */
  cut(): void;
  mend(): void;
}

/** A line to the daemon that breaks as networks do. */
export async function breakableLineTo(target: string): Promise<BreakableLine> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let isCut = false;
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  const server = createServer((near) => {
    if (isCut) return void near.destroy();
    const far = connect(Number(port), hostname);
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the line has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    cut,
    mend() {
      isCut = false;
    },
    async [Symbol.asyncDispose]() {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
