/** Manifests of images: what a registry answers for a name, and the choice among platforms. Pure. */
import { z } from "zod";
import { digestForm } from "./reference.ts";

export const indexTypes = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
];
export const manifestTypes = [
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];
export const maxManifestBytes = 4 * 2 ** 20;
const maxLayers = 512;

const digest = z.string().regex(digestForm);
const descriptor = z.object({
  mediaType: z.string().optional(),
  digest,
  size: z.number().int().nonnegative(),
});
export type Descriptor = z.infer<typeof descriptor>;

const platform = z.looseObject({
  os: z.string(),
  architecture: z.string(),
  variant: z.string().optional(),
});
const index = z.object({
  manifests: z.array(descriptor.extend({ platform: platform.optional() })).max(1000),
});
const manifest = z.object({ config: descriptor, layers: z.array(descriptor).max(maxLayers) });
export type Manifest = z.infer<typeof manifest>;

const textList = z.array(z.string()).nullish();
const imageConfig = z.object({
  os: z.string().optional(),
  architecture: z.string().optional(),
  config: z
    .looseObject({
      Env: textList,
      User: z.string().nullish(),
      WorkingDir: z.string().nullish(),
      Entrypoint: textList,
      Cmd: textList,
    })
    .nullish(),
  rootfs: z.object({ diff_ids: z.array(digest) }),
});

export type Architecture = "amd64" | "arm64";

export interface ImageConfig {
  readonly diffIds: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  /** What firkin, as E2B, does not take from an image: `USER 1000`, `ENTRYPOINT …`. */
  readonly unused: readonly string[];
}

/** Why an answer is no manifest that can be used. */
export class ManifestProblem extends Error {}

/** What an answer is, by what it has: media types are missing as often as they are wrong. */
export function readAnswer(body: Buffer): { readonly kind: "index" | "manifest"; readonly value: unknown } {
  let value: unknown;
  try {
    value = JSON.parse(body.toString()) as unknown;
  } catch {
    throw new ManifestProblem("its manifest is no JSON");
  }
  const { schemaVersion, manifests } = (value ?? {}) as { schemaVersion?: unknown; manifests?: unknown };
  if (schemaVersion === 1)
    throw new ManifestProblem("its manifest has schema version 1, which nothing writes any more: push it anew");
  return { kind: Array.isArray(manifests) ? "index" : "manifest", value };
}

/** The entry of an index for an architecture. @throws ManifestProblem listing what there is */
export function choosePlatform(value: unknown, architecture: Architecture): Descriptor {
  const parsed = index.safeParse(value);
  if (!parsed.success) throw new ManifestProblem("its index of platforms has no form that can be used");
  const real = parsed.data.manifests.filter((entry) => entry.platform && entry.platform.architecture !== "unknown");
  const fits = real.filter(({ platform }) => platform?.os === "linux" && platform.architecture === architecture);
  const plain = fits.find(({ platform }) => !platform?.variant || platform.variant === "v8") ?? fits[0];
  if (plain) return plain;
  const there = real.map(({ platform }) => `${platform?.os}/${platform?.architecture}`).join(", ") || "nothing";
  throw new ManifestProblem(`image does not match expected "linux/${architecture}": it has ${there}`);
}

/** @throws ManifestProblem */
export function readManifest(value: unknown): Manifest {
  const parsed = manifest.safeParse(value);
  if (!parsed.success) throw new ManifestProblem("its manifest has no form that can be used");
  for (const { mediaType = "" } of parsed.data.layers) {
    if (/foreign|nondistributable/.test(mediaType)) {
      throw new ManifestProblem("one of its layers is not in the registry (a foreign layer)");
    }
    if (mediaType !== "" && !/tar/.test(mediaType)) {
      throw new ManifestProblem(`it has a layer of type ${mediaType.slice(0, 100)}: it is no image of a file system`);
    }
  }
  return parsed.data;
}

/** @throws ManifestProblem when the configuration and the manifest disagree, or the image is for another machine */
export function readImageConfig(body: Buffer, layers: number, architecture: Architecture): ImageConfig {
  let value: unknown;
  try {
    value = JSON.parse(body.toString()) as unknown;
  } catch {
    throw new ManifestProblem("its configuration is no JSON");
  }
  const parsed = imageConfig.safeParse(value);
  if (!parsed.success) throw new ManifestProblem("its configuration has no form that can be used");
  const { os = "linux", architecture: made = architecture, config, rootfs } = parsed.data;
  if (os !== "linux") throw new ManifestProblem(`image os "${os.slice(0, 40)}" does not match expected "linux"`);
  if (made !== architecture) {
    throw new ManifestProblem(`image architecture "${made.slice(0, 40)}" does not match expected "${architecture}"`);
  }
  if (rootfs.diff_ids.length !== layers) throw new ManifestProblem("its configuration has another number of layers");
  return { diffIds: rootfs.diff_ids, envs: environmentOf(config?.Env ?? []), unused: unusedOf(config ?? {}) };
}

const variable = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** As in E2B, variables without a value are left out. */
function environmentOf(pairs: readonly string[]): Record<string, string> {
  const found = pairs.flatMap((pair) => {
    const at = pair.indexOf("=");
    const [name, value] = at < 0 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + 1)];
    return value !== "" && variable.test(name) && !value.includes("\0") ? [[name, value] as const] : [];
  });
  return Object.fromEntries(found);
}

interface RunSettings {
  readonly User?: string | null | undefined;
  readonly WorkingDir?: string | null | undefined;
  readonly Entrypoint?: readonly string[] | null | undefined;
  readonly Cmd?: readonly string[] | null | undefined;
}

function unusedOf({ User, WorkingDir, Entrypoint, Cmd }: RunSettings): string[] {
  const show = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}…` : text);
  return [
    User ? `USER ${show(User)}` : "",
    WorkingDir && WorkingDir !== "/" ? `WORKDIR ${show(WorkingDir)}` : "",
    Entrypoint?.length ? `ENTRYPOINT ${show(Entrypoint.join(" "))}` : "",
    Cmd?.length ? `CMD ${show(Cmd.join(" "))}` : "",
  ].filter((text) => text !== "");
}
