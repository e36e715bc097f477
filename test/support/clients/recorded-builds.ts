/** A control plane that remembers what clients order to be built. No image can be had there, so every build fails at once. */
import { DomainError } from "../../../src/errors.ts";
import type { ImageOrder } from "../../../src/template/images/store.ts";
import type { BuildStartRequest } from "../../../src/template/templates.ts";
import { openControlPlane } from "../daemon/control-plane.ts";
import { openFakeTemplates } from "../fakes/fake-templates.ts";

export interface RecordedBuilds extends AsyncDisposable {
  readonly url: string;
  /** The images that were asked for, with the logins for them. */
  readonly orders: readonly ImageOrder[];
  /** The requests that started builds. */
  readonly requests: readonly BuildStartRequest[];
}

export async function openRecordedBuilds(): Promise<RecordedBuilds> {
  const orders: ImageOrder[] = [];
  const requests: BuildStartRequest[] = [];
  const images = {
    prepare: async (order: ImageOrder) => {
      orders.push(order);
      throw new DomainError("failed_precondition", "no image today");
    },
  };
  const fake = openFakeTemplates({ images });
  const { templates } = fake;
  const start = templates.startBuild.bind(templates);
  templates.startBuild = (templateId, buildId, request) => {
    requests.push(request);
    return start(templateId, buildId, request);
  };
  const plane = openControlPlane({ templates });
  return {
    url: await plane.app.listen({ host: "127.0.0.1", port: 0 }),
    orders,
    requests,
    async [Symbol.asyncDispose]() {
      await plane[Symbol.asyncDispose]();
      await fake[Symbol.asyncDispose]();
    },
  };
}

/** A step as E2B's builders order it. The commands of the generations differ in options. */
type ExpectedStep = readonly [type: string, ...args: (string | RegExp)[]];

/** What the builders of every SDK and generation order for one list of calls, in `everyBuilder` and `sdk-builders.py`. */
const expectedSteps: readonly ExpectedStep[] = [
  ["USER", "web"],
  ["WORKDIR", "/srv"],
  ["ENV", "A", "1", "B", "two words"],
  ["COPY", "one.txt", "/srv/one.txt", "web", "0640"],
  ["COPY", "one.txt", "/a/"],
  ["COPY", "folder", "/b/"],
  ["RUN", /^apt-get update && .*apt-get install -y .*curl git$/, "root"],
  ["RUN", /^pip install .*numpy$/, "root"],
  ["RUN", /^npm install .*express$/],
  ["RUN", /^git clone .*https:\/\/git.example\/a.git .*\/src$/],
  ["RUN", /^mkdir .*\/made$/],
  ["RUN", /^ln .*\/made .*\/link$/],
  ["RUN", /^mv .*\/link .*\/moved$/],
  ["RUN", /^rm .*\/moved$/],
  ["RUN", "echo cached"],
  ["RUN", "echo one && echo two", "root"],
];

/** How the steps of a request differ from {@link expectedSteps}; empty when they do not. */
export function differences(request: BuildStartRequest | undefined): string[] {
  const steps = request?.steps ?? [];
  const found = expectedSteps.flatMap(([type, ...args], index) => {
    const step = steps[index];
    const given = step?.args ?? [];
    const fits =
      step?.type === type &&
      args.every((arg, at) => (typeof arg === "string" ? given[at] === arg : arg.test(given[at] ?? ""))) &&
      given.slice(args.length).every((more) => more === "") &&
      (type !== "COPY" || /^[0-9a-f]{64}$/.test(step.filesHash ?? ""));
    return fits ? [] : [`${type} ${args.join(" ")}: ${JSON.stringify(step)}`];
  });
  // What comes after skipCache() is run whatever the cache has.
  const forced = steps.map(({ force }) => force === true);
  const wanted = expectedSteps.map((_, index) => index === expectedSteps.length - 1);
  const isSame = JSON.stringify(forced) === JSON.stringify(wanted);
  return isSame ? found : [...found, `forced: ${JSON.stringify(forced)}`];
}
