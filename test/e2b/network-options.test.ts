import { expect, test } from "vitest";
import { readIngress, readInternetAccess } from "../../src/e2b/network-options.ts";
import { sandboxDomainFor } from "../../src/e2b/sandbox-domain.ts";

test.each([
  [undefined, undefined, true],
  [true, null, true],
  [false, undefined, false],
  [true, { allowOut: [], denyOut: [], rules: {}, egressProxy: null }, true],
  [null, { denyOut: ["0.0.0.0/0"] }, false],
  [true, { denyOut: ["0.0.0.0/0", "8.8.8.8"] }, false],
  [undefined, { denyOut: ["77.1.2.3/0"] }, false],
  [undefined, { denyOut: ["128.0.0.0/1", "64.0.0.0/2", "0.0.0.0/2"] }, false],
])("the switch is %j, the rules are %j: internet is %j", (allowInternetAccess, options, expected) => {
  expect(readInternetAccess(allowInternetAccess, options)).toBe(expected);
});

const domainsNeedDenial =
  "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all other traffic.";
test.each([
  [{ denyOut: ["example.com"] }, "invalid denied CIDR example.com"],
  [{ denyOut: ["::/0"] }, "invalid denied CIDR ::/0"],
  [{ denyOut: ["1.2.3.4/33"] }, "invalid denied CIDR 1.2.3.4/33"],
  [{ denyOut: ["1.2.3/8"] }, "invalid denied CIDR 1.2.3/8"],
  [{ denyOut: ["0.0.0.0/0/0"] }, "invalid denied CIDR 0.0.0.0/0/0"],
  [{ denyOut: [""] }, "invalid denied CIDR "],
  [{ allowOut: ["example.com"] }, domainsNeedDenial],
  [{ allowOut: ["*.example.com"], denyOut: ["10.0.0.0/8"] }, domainsNeedDenial],
  [{ allowOut: ["example.com"], denyOut: ["0.0.0.0/0"] }, "The option network.allowOut is not supported: "],
  [{ allowOut: ["1.1.1.1"] }, "The option network.allowOut is not supported: "],
  [{ denyOut: ["1.1.1.1"] }, "The option network.denyOut is not supported: "],
  [{ denyOut: ["0.0.0.0/1"] }, "The option network.denyOut is not supported: "],
  [{ denyOut: ["0.0.0.0/1", "128.0.0.0/2"] }, "The option network.denyOut is not supported: "],
  [{ rules: { "example.com": [] } }, "The option network.rules is not supported: "],
  [{ egressProxy: { address: "a:1" }, denyOut: ["0.0.0.0/0"] }, "The option network.egressProxy is not supported: "],
])("what cannot be enforced is refused: %j", (options, message) => {
  for (const allowed of [true, false, undefined]) {
    expect(() => readInternetAccess(allowed, options)).toThrow(message);
  }
});

const port = `\${PORT}`;
test("without options a sandbox takes public traffic and sees the client's Host", () => {
  const open = { allowPublicTraffic: true, maskRequestHost: null };
  for (const options of [undefined, null, {}, { maskRequestHost: "" }]) expect(readIngress(options)).toEqual(open);
  expect(readIngress({ allowPublicTraffic: false })).toEqual({ ...open, allowPublicTraffic: false });
});

test.each(["localhost", `localhost:${port}`, `p${port}.example.com:8080`, "[::1]:80", "10.0.0.1"])(
  "services may see the host %s",
  (maskRequestHost) => expect(readIngress({ maskRequestHost })).toMatchObject({ maskRequestHost }),
);

test.each(["a b", "a\r\nx-evil: 1", "ä.example", "a:b", "a:1:2", "a/b", "user@a", "a:65536", "-a", `a:${port}0`, "$"])(
  "a host that is none is refused: %j",
  (maskRequestHost) => {
    expect(() => readIngress({ maskRequestHost })).toThrow(/network\.maskRequestHost .* is not an ASCII host/);
  },
);

test.each([
  ["localhost:3000", "localhost:3000"],
  ["127.0.0.1:3000", "localhost:3000"],
  ["[::1]:3000", "localhost:3000"],
  ["localhost", "localhost"],
  ["api.firkin.localhost", "firkin.localhost"],
  ["API.Firkin.test:8443", "firkin.test:8443"],
  [undefined, null],
])("a client that came by %j finds its sandboxes below %j", (host, domain) => {
  expect(sandboxDomainFor(host)).toBe(domain);
});
