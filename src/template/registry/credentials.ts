/**
 * The credentials of a pull: those that a build brings, or what the user's Docker knows. They live in memory for the
 * time of a pull, and are in no log, error or table.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { z } from "zod";
import { DomainError } from "../../errors.ts";
import { ecrCredentials } from "./ecr.ts";
import { dockerHub, type ImageReference } from "./reference.ts";

/** A login that a client sends with a build. */
export type RegistryLogin =
  | { readonly type: "registry"; readonly username: string; readonly password: string }
  | {
      readonly type: "aws";
      readonly awsAccessKeyId: string;
      readonly awsSecretAccessKey: string;
      readonly awsRegion: string;
    }
  | { readonly type: "gcp"; readonly serviceAccountJson: string };

/** What a registry is told: a name with a password, or a token that stands for both. */
export type Credentials =
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  | { readonly kind: "identityToken"; readonly token: string };

/** How Docker's own configuration calls Docker Hub. */
const hubKey = "https://index.docker.io/v1/";
const helperDeadlineMs = 5_000;
const helperForm = /^[a-z0-9][a-z0-9._-]*$/i;
const config = z.object({
  auths: z
    .record(
      z.string(),
      z.looseObject({
        auth: z.string().optional(),
        username: z.string().optional(),
        password: z.string().optional(),
        identitytoken: z.string().optional(),
      }),
    )
    .optional(),
  credHelpers: z.record(z.string(), z.string()).optional(),
  credsStore: z.string().optional(),
});
const helperAnswer = z.object({ Username: z.string(), Secret: z.string() });

/**
 * The credentials for an image; undefined: none, which public images need not.
 * @throws DomainError `failed_precondition` when ECR gives none
 */
export async function credentialsFor(
  image: ImageReference,
  login: RegistryLogin | undefined,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Credentials | undefined> {
  if (!login) return fromDocker(image.registry, env);
  switch (login.type) {
    case "registry":
      return { kind: "basic", username: login.username, password: login.password };
    case "gcp":
      return { kind: "basic", username: "_json_key", password: login.serviceAccountJson };
    case "aws":
      return ecrCredentials(login, env.FIRKIN_ECR_ENDPOINT);
    default:
      return login satisfies never;
  }
}

/** What `docker login` left for a registry. A configuration or a helper that does not work counts as none. */
async function fromDocker(registry: string, env: NodeJS.ProcessEnv): Promise<Credentials | undefined> {
  const path = join(env.DOCKER_CONFIG || join(homedir(), ".docker"), "config.json");
  const text = await readFile(path, "utf8").catch(() => "{}");
  const parsed = config.safeParse(parseJson(text));
  if (!parsed.success) return undefined;
  const { auths = {}, credHelpers = {}, credsStore } = parsed.data;
  const keys = registry === dockerHub ? [hubKey, dockerHub, "index.docker.io"] : [registry, `https://${registry}`];
  for (const key of keys) {
    const helper = credHelpers[key] ?? credsStore;
    const found = helper === undefined ? undefined : await askHelper(helper, key, env);
    if (found) return found;
  }
  for (const key of keys) {
    const entry = auths[key];
    if (entry?.identitytoken) return { kind: "identityToken", token: entry.identitytoken };
    if (entry?.auth) return fromBase64(entry.auth);
    if (entry?.username && entry.password) {
      return { kind: "basic", username: entry.username, password: entry.password };
    }
  }
  return undefined;
}

async function askHelper(helper: string, key: string, env: NodeJS.ProcessEnv): Promise<Credentials | undefined> {
  if (!helperForm.test(helper)) return undefined;
  const asking = promisify(execFile)(`docker-credential-${helper}`, ["get"], { timeout: helperDeadlineMs, env });
  asking.child.stdin?.on("error", () => {});
  asking.child.stdin?.end(key);
  const answer = await asking.then(
    ({ stdout }) => helperAnswer.safeParse(parseJson(stdout)),
    () => undefined,
  );
  if (!answer?.success) return undefined;
  const { Username: username, Secret: password } = answer.data;
  return username === "<token>" ? { kind: "identityToken", token: password } : { kind: "basic", username, password };
}

function fromBase64(text: string): Credentials | undefined {
  const [username = "", ...rest] = Buffer.from(text, "base64").toString().split(":");
  return username === "" || rest.length === 0 ? undefined : { kind: "basic", username, password: rest.join(":") };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

const loginSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("registry"), username: z.string(), password: z.string() }),
  z.object({
    type: z.literal("aws"),
    awsAccessKeyId: z.string().min(1),
    awsSecretAccessKey: z.string().min(1),
    awsRegion: z.string().regex(/^[a-z0-9-]{1,40}$/, "is the name of a region, like eu-west-1"),
  }),
  z.object({ type: z.literal("gcp"), serviceAccountJson: z.string().min(2) }),
]);

/**
 * The login that a client sent with a build.
 * @throws DomainError `invalid_argument` naming the field, never its value
 */
export function parseLogin(sent: object): RegistryLogin {
  const parsed = loginSchema.safeParse(sent);
  if (parsed.success) return parsed.data;
  const { type } = sent as { type?: unknown };
  const isKnown = ["registry", "aws", "gcp"].includes(String(type));
  const issue = parsed.error.issues[0];
  const why = isKnown
    ? `${issue?.path.join(".")}: ${issue?.message}`
    : `unknown registry type: ${String(type).slice(0, 40)}`;
  throw new DomainError("invalid_argument", isKnown ? `fromImageRegistry: ${why}` : why);
}
