/**
 * The report of what only a machine with the internet can show of registries: each is asked for a small image, which is
 * pulled and written as a disk. Private ones are asked when the environment has a login; see README.md.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { messageOf } from "../../src/errors.ts";
import { openLog } from "../../src/log.ts";
import { createMetrics } from "../../src/metrics.ts";
import { openImages } from "../../src/template/images/open.ts";
import type { RegistryLogin } from "../../src/template/registry/credentials.ts";

interface Question {
  readonly reference: string;
  readonly login?: RegistryLogin;
}

const open: readonly Question[] = [
  "alpine:latest",
  "debian:stable-slim",
  "python:3-slim",
  "docker.io/library/busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000",
  "ghcr.io/linuxcontainers/alpine:latest",
  "quay.io/prometheus/busybox:latest",
  "public.ecr.aws/docker/library/alpine:latest",
  "gcr.io/distroless/static-debian12:latest",
  "registry.fedoraproject.org/fedora-minimal:latest",
].map((reference) => ({ reference }));

/** The private images that the environment names, with its logins. */
async function privateQuestions(env: NodeJS.ProcessEnv): Promise<Question[]> {
  const { VERIFY_ECR_IMAGE: ecr, VERIFY_GCP_IMAGE: gcp, VERIFY_IMAGE: other } = env;
  const { AWS_ACCESS_KEY_ID: key = "", AWS_SECRET_ACCESS_KEY: secret = "", AWS_REGION: region = "" } = env;
  const {
    GOOGLE_APPLICATION_CREDENTIALS: google,
    VERIFY_USERNAME: username = "",
    VERIFY_PASSWORD: password = "",
  } = env;
  const aws = { type: "aws", awsAccessKeyId: key, awsSecretAccessKey: secret, awsRegion: region } as const;
  return [
    ...(ecr ? [{ reference: ecr, login: aws }] : []),
    ...(gcp && google
      ? [{ reference: gcp, login: { type: "gcp", serviceAccountJson: await readFile(google, "utf8") } as const }]
      : []),
    ...(other ? [{ reference: other, login: { type: "registry", username, password } as const }] : []),
  ];
}

async function main(): Promise<void> {
  const cacheDir = await mkdtemp(join(tmpdir(), "firkin-registries-"));
  const { log } = await openLog({ level: "silent", file: undefined });
  try {
    const settings = {
      cacheDir,
      imageCacheMiB: 1024,
      insecureRegistry: "",
      registryMirror: "",
      allowLocalImages: "no",
    } as const;
    const work = { clock: systemClock, log, metrics: createMetrics(), reach: () => {}, admitBytes: async () => {} };
    const images = await openImages(settings, work);
    process.stdout.write("| image | result | seconds |\n| --- | --- | --- |\n");
    for (const { reference, login } of [...open, ...(await privateQuestions(process.env))]) {
      const startedMs = performance.now();
      const result = await images
        .prepare({ reference, login }, () => {}, AbortSignal.timeout(300_000))
        .then(({ digest, diskMiB }) => `${digest.slice(0, 19)}…, disk of ${diskMiB} MiB`, messageOf);
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
      process.stdout.write(`| ${reference.slice(0, 60)} | ${result.replaceAll("|", "/")} | ${seconds} |\n`);
    }
  } finally {
    await rm(cacheDir, { recursive: true, force: true });
  }
}

await main();
