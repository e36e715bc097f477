/** The login of Amazon's registry: a signed request for a token (AWS Signature Version 4). */
import { createHash, createHmac } from "node:crypto";
import { request } from "undici";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import { networkFor } from "./network.ts";

interface EcrLogin {
  readonly awsAccessKeyId: string;
  readonly awsSecretAccessKey: string;
  readonly awsRegion: string;
}

const answer = z.object({ authorizationData: z.array(z.object({ authorizationToken: z.string() })).min(1) });
const target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
const contentType = "application/x-amz-json-1.1";
const deadlineMs = 30_000;

/**
 * @param endpoint for tests; default Amazon's own
 * @throws DomainError `failed_precondition` when Amazon gives no token
 */
export async function ecrCredentials(
  login: EcrLogin,
  endpoint = `https://api.ecr.${login.awsRegion}.amazonaws.com/`,
): Promise<{ kind: "basic"; username: string; password: string }> {
  const url = new URL(endpoint);
  const body = "{}";
  const headers = signedHeaders(login, url.host, body, new Date());
  const refuse = (why: string, cause?: unknown) =>
    new DomainError(
      "failed_precondition",
      `access denied: Amazon gave no token for its registry (${why})`,
      {},
      { cause },
    );
  const response = await request(url, {
    method: "POST",
    headers,
    body,
    dispatcher: networkFor(url),
    headersTimeout: deadlineMs,
  }).catch((error: unknown) => {
    throw refuse(messageOf(error), error);
  });
  if (response.statusCode !== 200) {
    await response.body.dump();
    throw refuse(`status ${response.statusCode}`);
  }
  const parsed = answer.safeParse(await response.body.json().catch(() => undefined));
  const token = parsed.data?.authorizationData[0]?.authorizationToken;
  const [username = "", ...rest] = Buffer.from(token ?? "", "base64")
    .toString()
    .split(":");
  if (rest.length === 0) throw refuse("its answer has another form");
  return { kind: "basic", username, password: rest.join(":") };
}

/** The headers of a request that proves that its sender has the key. */
export function signedHeaders(
  { awsAccessKeyId, awsSecretAccessKey, awsRegion }: EcrLogin,
  host: string,
  body: string,
  now: Date,
): Record<string, string> {
  const time = now.toISOString().replaceAll(/[:-]|\.\d+/g, "");
  const day = time.slice(0, 8);
  const scope = `${day}/${awsRegion}/ecr/aws4_request`;
  const signed = { "content-type": contentType, host, "x-amz-date": time, "x-amz-target": target };
  const names = Object.keys(signed).join(";");
  const lines = Object.entries(signed).map(([name, value]) => `${name}:${value}\n`);
  const canonical = ["POST", "/", "", lines.join(""), names, sha256(body)].join("\n");
  const text = ["AWS4-HMAC-SHA256", time, scope, sha256(canonical)].join("\n");
  const key = [day, awsRegion, "ecr", "aws4_request"].reduce<string | Buffer>(hmac, `AWS4${awsSecretAccessKey}`);
  const signature = hmac(key, text).toString("hex");
  const authorization = `AWS4-HMAC-SHA256 Credential=${awsAccessKeyId}/${scope}, SignedHeaders=${names}, Signature=${signature}`;
  return { ...signed, authorization };
}

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
const hmac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest();
