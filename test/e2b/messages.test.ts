/** The messages of `src/e2b/proto` against those that the official SDK carries: same services, fields and numbers. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type DescMessage, type DescService, fromBinary } from "@bufbuild/protobuf";
import { type DescriptorProto, type FileDescriptorProto, FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { file_filesystem_filesystem } from "../../src/e2b/gen/filesystem/filesystem_pb.ts";
import { file_process_process } from "../../src/e2b/gen/process/process_pb.ts";

const sdk = readFileSync(fileURLToPath(new URL("../../node_modules/e2b/dist/index.mjs", import.meta.url)), "utf8");
const descriptors = [...sdk.matchAll(/fileDesc\("([A-Za-z0-9+/]+)"/g)].map((match) =>
  fromBinary(FileDescriptorProtoSchema, Buffer.from(match[1] ?? "", "base64")),
);

test.each([
  ["process", file_process_process],
  ["filesystem", file_filesystem_filesystem],
])("%s", (name, ours) => {
  const theirs = descriptors.find((file) => file.package === name);
  expect(theirs).toBeDefined();
  expect(describeTheirs(theirs as FileDescriptorProto)).toEqual(
    [
      ...ours.services.map(describeService),
      ...ours.messages.flatMap(describeMessage),
      ...ours.enums.flatMap((type) => type.values.map((value) => `${type.name} ${value.name} = ${value.number}`)),
    ].sort(),
  );
});

function describeService(service: DescService): string {
  const kinds = { unary: "", server_streaming: " out", client_streaming: " in", bidi_streaming: " both" };
  return `${service.name}: ${service.methods.map((m) => `${m.name}${kinds[m.methodKind]}`).sort()}`;
}

function describeMessage(message: DescMessage): string[] {
  return [
    ...message.fields.map((field) => `${message.typeName} ${field.proto.name} = ${field.number} ${field.proto.type}`),
    ...message.nestedMessages.flatMap(describeMessage),
  ];
}

function describeTheirs(file: FileDescriptorProto): string[] {
  const messages = (prefix: string, types: readonly DescriptorProto[]): string[] =>
    types.flatMap((type) => [
      ...(type.options?.mapEntry
        ? []
        : type.field.map((field) => `${prefix}.${type.name} ${field.name} = ${field.number} ${field.type}`)),
      ...messages(`${prefix}.${type.name}`, type.nestedType),
    ]);
  return [
    ...file.service.map((service) => {
      const methods = service.method.map((m) => {
        const kind = m.clientStreaming ? " in" : m.serverStreaming ? " out" : "";
        return `${m.name}${kind}`;
      });
      return `${service.name}: ${methods.sort()}`;
    }),
    ...messages(file.package, file.messageType),
    ...file.enumType.flatMap((type) => type.value.map((value) => `${type.name} ${value.name} = ${value.number}`)),
  ].sort();
}
