/** Logins: where they come from, whom they are told, and that nobody else hears of them. */
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { credentialsFor, parseLogin } from "../../../src/template/registry/credentials.ts";
import { signedHeaders } from "../../../src/template/registry/ecr.ts";
import { parseReference } from "../../../src/template/registry/reference.ts";
import { makeImage } from "../../support/images/make-image.ts";
import { refuse, TestRegistry } from "../../support/images/registry.ts";
import { openClient } from "../../support/images/registry-client.ts";

let registry: TestRegistry;
let folder: string;
beforeEach(async () => {
  registry = await TestRegistry.open();
  folder = await mkdtemp(join(tmpdir(), "firkin-docker-"));
});
afterEach(async () => {
  await registry[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const image = makeImage({ layers: [[{ path: "a", content: "b" }]] });
const login = { type: "registry", username: "me", password: "s3cret:with colon" } as const;
const basic = `Basic ${Buffer.from(`${login.username}:${login.password}`).toString("base64")}`;

/** Tokens at `/token`, which a pull needs. @param lifeS how long a token is good */
function wantTokens({ lifeS, password = true }: { lifeS?: number; password?: boolean } = {}) {
  let tokens = 0;
  registry.interfere = (request, response) => {
    if (request.url?.startsWith("/token")) {
      if (password && request.headers.authorization !== basic) refuse(response, 401, "UNAUTHORIZED");
      else response.end(JSON.stringify({ token: `token-${++tokens}`, expires_in: lifeS }));
      return true;
    }
    if (request.headers.authorization === `Bearer token-${tokens}` && tokens > 0) return false;
    const challenge = `Bearer realm="http://${registry.host}/token",service="reg",scope="repository:p/img:pull"`;
    refuse(response, 401, "UNAUTHORIZED", { "www-authenticate": challenge });
    return true;
  };
  return () => tokens;
}

test("a name and a password are sent to a registry that asks for them", async () => {
  await using pull = await openClient();
  const reference = registry.add("p/img", image);
  registry.interfere = (request, response) => {
    if (request.headers.authorization === basic) return false;
    refuse(response, 401, "UNAUTHORIZED", { "www-authenticate": 'Basic realm="r"' });
    return true;
  };
  expect(await pull.pull(reference, login)).toMatchObject({ isPublic: false });
  expect(registry.seen[0]?.authorization).toBeUndefined();
  const wrong = { ...login, password: "wrong" };
  for (const each of [wrong, undefined]) {
    await expect(pull.pull(reference, each)).rejects.toThrow(
      `access denied to '${reference}': authentication required or insufficient permissions`,
    );
  }
});

test("a token is got once for a pull, with the password, and again when it has expired", async () => {
  await using pull = await openClient();
  const reference = registry.add("p/img", image);
  const tokens = wantTokens({ lifeS: 60 });
  const resolved = await pull.resolve(reference, login);
  expect(tokens()).toBe(1);
  const asked = registry.seen.find(({ path }) => path.startsWith("/token"));
  expect(asked?.path).toBe("/token?service=reg&scope=repository%3Ap%2Fimg%3Apull");
  pull.clock.advance(60_000);
  await pull.client.fetch(resolved, new AbortController().signal);
  expect(tokens()).toBe(2);
});

test("a public image of a registry with tokens needs no login", async () => {
  await using pull = await openClient();
  const reference = registry.add("p/img", image);
  wantTokens({ password: false });
  expect(await pull.pull(reference)).toMatchObject({ isPublic: true });
});

test("a redirect to another host carries no credentials", async () => {
  await using pull = await openClient();
  await using store = await TestRegistry.open();
  const reference = registry.add("p/img", image);
  store.add("p/img", image);
  wantTokens({ password: false });
  const ask = registry.interfere;
  registry.interfere = (request, response) => {
    if (ask(request, response)) return true;
    if (!request.url?.includes("/blobs/")) return false;
    response.writeHead(307, { location: `http://${store.host}${request.url}` }).end();
    return true;
  };
  await pull.pull(reference);
  expect(store.seen.length).toBe(2);
  expect(store.seen.map(({ authorization }) => authorization)).toEqual([undefined, undefined]);
});

test.each([
  ["over plain HTTP to the network", 'Bearer realm="http://tokens.example/token"', "over plain HTTP"],
  ["to the network from this host", 'Bearer realm="https://tokens.example/token"', "unexpected place"],
  ["nowhere", "Bearer", "access denied"],
  ["to a file", 'Bearer realm="file:///etc/passwd"', "no web address"],
])("a password is not sent %s", async (_, challenge, message) => {
  await using pull = await openClient();
  const reference = registry.add("p/img", image);
  registry.interfere = (_request, response) => {
    refuse(response, 401, "UNAUTHORIZED", { "www-authenticate": challenge });
    return true;
  };
  const error = await pull.resolve(reference, login).catch((reason: unknown) => reason);
  expect(String(error)).toContain(message);
  expect(JSON.stringify(error) + String(error)).not.toContain("s3cret");
});

test.each([
  ["in a circle", "/v2/p/img/manifests/latest", "redirects in a circle"],
  ["to a file", "file:///etc/passwd", "no web address"],
  ["to plain HTTP", "http://other.example/", "over plain HTTP"],
  ["to no address", "http://[", "redirects to no address"],
])("a redirect %s is refused", async (_, location, message) => {
  await using pull = await openClient();
  registry.interfere = (_request, response) => {
    response.writeHead(302, { location }).end();
    return true;
  };
  await expect(pull.resolve(`${registry.host}/p/img`)).rejects.toThrow(message);
});

test("Docker's configuration and its credential helpers are used", async () => {
  const helper =
    '#!/bin/sh\nread host\n[ "$host" = helped.example ] && echo "{\\"Username\\":\\"h\\",\\"Secret\\":\\"p\\"}"\n';
  await writeFile(join(folder, "docker-credential-test"), helper);
  await chmod(join(folder, "docker-credential-test"), 0o755);
  const auth = Buffer.from("u:p:q").toString("base64");
  const config = {
    auths: {
      "plain.example": { auth },
      "https://index.docker.io/v1/": { auth },
      "token.example": { identitytoken: "t" },
      "odd.example": { auth: "!" },
    },
    credHelpers: { "helped.example": "test", "evil.example": "../../bin/sh", "broken.example": "no-such" },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  const env = { DOCKER_CONFIG: folder, PATH: `${folder}:${process.env.PATH}` };
  const of = (name: string) => credentialsFor(parseReference(name), undefined, env);
  const fromFile = { kind: "basic", username: "u", password: "p:q" };
  expect(await of("plain.example/a")).toEqual(fromFile);
  expect(await of("ubuntu")).toEqual(fromFile);
  expect(await of("token.example/a")).toEqual({ kind: "identityToken", token: "t" });
  expect(await of("helped.example/a")).toEqual({ kind: "basic", username: "h", password: "p" });
  for (const name of ["odd", "evil", "broken", "other"]) expect(await of(`${name}.example/a`)).toBeUndefined();
  await writeFile(join(folder, "config.json"), "not JSON");
  expect(await of("plain.example/a")).toBeUndefined();
});

test("a service account of Google is a password", async () => {
  const json = '{"type":"service_account"}';
  const found = await credentialsFor(parseReference("gcr.io/a/b"), { type: "gcp", serviceAccountJson: json });
  expect(found).toEqual({ kind: "basic", username: "_json_key", password: json });
});

test("Amazon's registry is asked for a token with a signed request", async () => {
  const heard: { headers: Record<string, unknown>; body: string }[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (bytes: Buffer) => {
      body += bytes.toString();
    });
    request.on("end", () => {
      heard.push({ headers: request.headers, body });
      const authorizationToken = Buffer.from("AWS:token").toString("base64");
      if (heard.length === 1) response.end(JSON.stringify({ authorizationData: [{ authorizationToken }] }));
      else response.writeHead(400).end('{"__type":"UnrecognizedClientException"}');
    });
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const env = { FIRKIN_ECR_ENDPOINT: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
  const aws = { type: "aws", awsAccessKeyId: "AK", awsSecretAccessKey: "SK", awsRegion: "eu-west-1" } as const;
  const reference = parseReference("1.dkr.ecr.eu-west-1.amazonaws.com/a");
  expect(await credentialsFor(reference, aws, env)).toEqual({ kind: "basic", username: "AWS", password: "token" });
  expect(heard[0]).toMatchObject({
    body: "{}",
    headers: { "x-amz-target": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" },
  });
  await expect(credentialsFor(reference, aws, env)).rejects.toThrow(
    "Amazon gave no token for its registry (status 400)",
  );
  server.close();
});

test("a request to Amazon has the signature that Amazon's own library gives it", () => {
  const aws = {
    awsAccessKeyId: "AKIDEXAMPLE",
    awsSecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    awsRegion: "us-east-1",
  };
  const at = new Date("2015-08-30T12:36:00.123Z");
  const { authorization } = signedHeaders(aws, "api.ecr.us-east-1.amazonaws.com", "{}", at);
  expect(authorization).toBe(
    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/ecr/aws4_request, " +
      "SignedHeaders=content-type;host;x-amz-date;x-amz-target, " +
      "Signature=527a2155e9afc2426cb4c659023df9c031e8103458f349819615ff25111f5de0",
  );
});

test.each([
  [{ type: "quay" }, "unknown registry type: quay"],
  [{}, "unknown registry type: undefined"],
  [{ type: "registry", username: "a" }, "fromImageRegistry: password"],
  [
    { type: "aws", awsAccessKeyId: "a", awsSecretAccessKey: "s3cret", awsRegion: "a/b" },
    "fromImageRegistry: awsRegion",
  ],
])("a login of another form is refused without its values: %j", (sent, message) => {
  let text = "";
  try {
    parseLogin(sent);
  } catch (error) {
    text = String(error);
  }
  expect(text).toContain(message);
  expect(text).not.toContain("s3cret");
});
