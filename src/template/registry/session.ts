/**
 * Requests to one registry for one image: with its token, over its redirects, and again when the registry asks for a
 * pause. Credentials go to the registry and to the place of tokens that it names, over HTTPS or on this host, and
 * nowhere else.
 */
import { createHash } from "node:crypto";
import { type Dispatcher, request } from "undici";
import { z } from "zod";
import type { Clock } from "../../clock.ts";
import { isDomainError, messageOf } from "../../errors.ts";
import type { Credentials } from "./credentials.ts";
import { badImage, pullFailure, unreachable } from "./failures.ts";
import { networkFor } from "./network.ts";
import { dockerHub, type ImageReference, isLoopback } from "./reference.ts";

export interface RegistrySettings {
  /** Registries, `host[:port]`, that are reached over plain HTTP. Those on this host's loopback are, too. */
  readonly insecure: ReadonlySet<string>;
  /** Registry → base URLs that are tried before it. */
  readonly mirrors: ReadonlyMap<string, readonly string[]>;
}

export type Answer = Dispatcher.ResponseData;

const maxRedirects = 5;
const maxPauses = 3;
const longestPauseMs = 60_000;
const defaultTokenMs = 60_000;
const maxTokenBytes = 256 * 1024;
const maxErrorBytes = 64 * 1024;

interface Token {
  readonly header: string;
  readonly untilMs: number;
}

/** Tokens of all sessions, by registry, repository and credentials. In memory only. */
export type TokenCache = Map<string, Token>;

export interface SessionOptions {
  readonly image: ImageReference;
  /** Base URL of the registry or its mirror. */
  readonly base: URL;
  readonly credentials: Credentials | undefined;
  readonly settings: RegistrySettings;
  readonly tokens: TokenCache;
  readonly clock: Clock;
}

const tokenAnswer = z.object({
  token: z.string().min(1).optional(),
  access_token: z.string().min(1).optional(),
  expires_in: z.number().positive().optional(),
});
const errorAnswer = z.object({ errors: z.array(z.object({ code: z.string().max(64) })).min(1) });

export class RegistrySession {
  readonly #options: SessionOptions;
  readonly #tokenKey: string;

  constructor(options: SessionOptions) {
    this.#options = options;
    const { base, image, credentials } = options;
    const parts = JSON.stringify([base.href, image.path, credentials]);
    this.#tokenKey = createHash("sha256").update(parts).digest("hex");
  }

  /**
   * Gets a path below `/v2/<repository>/`.
   * @param accept the statuses that the caller wants besides 200
   * @throws DomainError `failed_precondition` in E2B's words, with `unreachable` in its details when there was no answer;
   *   the signal's reason
   */
  async get(
    path: string,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    accept: readonly number[] = [],
  ): Promise<Answer> {
    const { image, base, clock } = this.#options;
    const url = new URL(`/v2/${image.path}/${path}`, base);
    let hasLoggedIn = false;
    for (let pauses = 0; ; ) {
      const answer = await this.#follow(url, headers, signal);
      if (answer.statusCode === 200 || accept.includes(answer.statusCode)) return answer;
      if (answer.statusCode === 401 && !hasLoggedIn) {
        hasLoggedIn = true;
        await discard(answer);
        await this.#logIn(answer, signal);
        continue;
      }
      const pauseMs = pauseOf(answer);
      if (pauseMs !== undefined && pauses < maxPauses) {
        pauses += 1;
        await discard(answer);
        await clock.sleep(pauseMs, signal);
        continue;
      }
      throw pullFailure(image, answer.statusCode, await errorCodeOf(answer));
    }
  }

  async #follow(start: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Answer> {
    const { image, tokens, clock, base } = this.#options;
    let url = start;
    for (let redirects = 0; redirects <= maxRedirects; redirects++) {
      this.#refuseUnsafe(url);
      const token = tokens.get(this.#tokenKey);
      const isFresh = token !== undefined && token.untilMs > clock.monotonicMs();
      const authorization = isFresh && url.origin === base.origin ? { authorization: token.header } : {};
      const answer = await this.#request(url, { ...headers, ...authorization }, signal);
      const { location } = answer.headers;
      if (![301, 302, 303, 307, 308].includes(answer.statusCode)) return answer;
      await discard(answer);
      if (typeof location !== "string" || !URL.canParse(location, url.href)) {
        throw badImage(image, "the registry redirects to no address");
      }
      url = new URL(location, url);
    }
    throw badImage(image, "the registry redirects in a circle");
  }

  async #request(url: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Answer> {
    try {
      return await request(url, {
        headers: { ...headers, "user-agent": "firkin" },
        dispatcher: networkFor(url),
        signal,
      });
    } catch (error) {
      signal.throwIfAborted();
      throw unreachable(this.#options.image, describe(error), error);
    }
  }

  /** Gets the token that a registry asks for, or remembers to send the password. */
  async #logIn(answer: Answer, signal: AbortSignal): Promise<void> {
    const { image, credentials, tokens, clock, base } = this.#options;
    const asked = [answer.headers["www-authenticate"]].flat().join(", ");
    const denied = () => pullFailure(image, 401, "UNAUTHORIZED");
    tokens.delete(this.#tokenKey);
    if (/^basic\b/i.test(asked)) {
      if (credentials?.kind !== "basic") throw denied();
      // A second refusal ends the request, so it may be remembered.
      tokens.set(this.#tokenKey, { header: basic(credentials), untilMs: Number.POSITIVE_INFINITY });
      return;
    }
    const challenge = parameters(asked);
    if (!/^bearer\b/i.test(asked) || !challenge.realm || !URL.canParse(challenge.realm)) throw denied();
    const realm = new URL(challenge.realm);
    this.#refuseUnsafe(realm);
    // The password of a registry on the network is for no program on this host.
    if (isLoopback(realm.host) !== isLoopback(base.host))
      throw badImage(image, "its tokens are at an unexpected place");
    const scope = challenge.scope ?? `repository:${image.path}:pull`;
    const { header, lifeMs } = await this.#fetchToken(realm, challenge.service, scope, signal);
    tokens.set(this.#tokenKey, { header, untilMs: clock.monotonicMs() + lifeMs });
  }

  async #fetchToken(realm: URL, service: string | undefined, scope: string, signal: AbortSignal) {
    const { image, credentials } = this.#options;
    const query = new URLSearchParams({ ...(service && { service }), scope });
    const answer = await (credentials?.kind === "identityToken"
      ? this.#exchange(realm, query, credentials.token, signal)
      : this.#request(
          new URL(`${realm.origin}${realm.pathname}?${query}`),
          credentials ? { authorization: basic(credentials) } : {},
          signal,
        ));
    if (answer.statusCode !== 200) {
      const code = await errorCodeOf(answer);
      throw pullFailure(image, answer.statusCode, answer.statusCode === 401 ? "UNAUTHORIZED" : code);
    }
    const parsed = tokenAnswer.safeParse(parseJson(await limitedText(answer, maxTokenBytes)));
    const token = parsed.data?.token ?? parsed.data?.access_token;
    if (!token || /[^\x21-\x7e]/.test(token))
      throw badImage(image, "the registry's token has no form that can be used");
    const seconds = parsed.data?.expires_in;
    return { header: `Bearer ${token}`, lifeMs: seconds === undefined ? defaultTokenMs : seconds * 900 };
  }

  /** A login that gave a token instead of a password is exchanged by a form. */
  async #exchange(realm: URL, query: URLSearchParams, token: string, signal: AbortSignal): Promise<Answer> {
    const form = new URLSearchParams([...query, ["grant_type", "refresh_token"], ["refresh_token", token]]);
    form.set("client_id", "firkin");
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    try {
      const options = {
        method: "POST",
        headers,
        body: form.toString(),
        dispatcher: networkFor(realm),
        signal,
      } as const;
      return await request(realm, options);
    } catch (error) {
      signal.throwIfAborted();
      throw unreachable(this.#options.image, describe(error), error);
    }
  }

  #refuseUnsafe(url: URL): void {
    const { image, settings, base } = this.#options;
    const isPlain = url.protocol === "http:";
    if (!isPlain && url.protocol !== "https:")
      throw badImage(image, "the registry names an address that is no web address");
    if (isPlain && !isLoopback(url.host) && !settings.insecure.has(url.host)) {
      throw badImage(image, `the registry names ${url.host} over plain HTTP, which --insecure-registry would allow`);
    }
    // A registry on the network must not make the daemon ask programs on this host.
    if (isLoopback(url.host) && !isLoopback(base.host)) throw badImage(image, "the registry redirects to this host");
  }
}

/** The base URLs of a registry, mirrors first. */
export function basesOf(registry: string, { mirrors, insecure }: RegistrySettings): URL[] {
  const host = registry === dockerHub ? "registry-1.docker.io" : registry;
  const scheme = isLoopback(registry) || insecure.has(registry) ? "http" : "https";
  return [...(mirrors.get(registry) ?? []), `${scheme}://${host}`].map((text) => new URL(text));
}

/** Whether the next place may have what this one did not give. */
export function mayBeElsewhere(error: unknown): boolean {
  if (!isDomainError(error, "failed_precondition")) return false;
  const { unreachable: isUnreachable, status } = error.details;
  return isUnreachable === true || status === 404 || (typeof status === "number" && status >= 500);
}

const basic = ({ username, password }: Extract<Credentials, { kind: "basic" }>) =>
  `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;

function parameters(challenge: string): Readonly<Record<string, string | undefined>> {
  const found = challenge.matchAll(/([a-z_]+)="([^"]*)"/gi);
  return Object.fromEntries([...found].map(([, name = "", value = ""]) => [name.toLowerCase(), value]));
}

/** How long a registry asks to wait; undefined when it does not, or asks for too long. */
function pauseOf({ statusCode, headers }: Answer): number | undefined {
  if (statusCode !== 429 && statusCode !== 503) return undefined;
  const seconds = Number(headers["retry-after"]);
  const pauseMs = Number.isFinite(seconds) ? seconds * 1000 : 1000;
  return pauseMs <= longestPauseMs ? Math.max(0, pauseMs) : undefined;
}

async function errorCodeOf(answer: Answer): Promise<string | undefined> {
  const text = await limitedText(answer, maxErrorBytes).catch(() => "");
  return errorAnswer.safeParse(parseJson(text)).data?.errors[0]?.code;
}

/** The body of an answer as text. @throws Error when it is longer than `maxBytes` */
async function limitedText(answer: Answer, maxBytes: number): Promise<string> {
  return (await limitedBody(answer, maxBytes)).toString();
}

export async function limitedBody(answer: Answer, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const piece of answer.body) {
    const chunk = piece as Buffer;
    sizeBytes += chunk.length;
    if (sizeBytes > maxBytes) {
      answer.body.destroy();
      throw new Error(`an answer of the registry is longer than ${maxBytes} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function discard({ body }: Answer): Promise<void> {
  await body.dump({ limit: maxErrorBytes }).catch(() => {});
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** The fact of a failed connection, without addresses that a proxy's password may be in. */
function describe(error: unknown): string {
  const { code } = error as { code?: unknown };
  return typeof code === "string"
    ? code
    : messageOf(error)
        .slice(0, 200)
        .replaceAll(/\/\/[^@/\s]*@/g, "//");
}
