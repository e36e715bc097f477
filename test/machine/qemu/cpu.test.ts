import { expect, test } from "vitest";
import {
  emulatedCpu,
  GuestCpus,
  type HostCpu,
  hostModel,
  kvmCpus,
  parseHostCpu,
} from "../../../src/machine/qemu/cpu.ts";

const v2 = "pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm";
const v3 = `${v2} abm aes avx avx2 bmi1 bmi2 f16c fma movbe xsave`;
const haswell = `${v3} erms fsgsbase invpcid pcid rdrand smep tsc_deadline_timer x2apic`;
const epyc = `${v3} adx clflushopt fsgsbase rdrand rdseed sha_ni smap smep sse4a`;

function host(vendor: string, flags: string, model = "143"): HostCpu {
  const fields = [`processor\t: 0`, `vendor_id\t: ${vendor}`, "cpu family\t: 6", `model\t\t: ${model}`];
  return parseHostCpu([...fields, "model name\t: A processor", `flags\t\t: fpu ${flags}`, ""].join("\n"));
}

test("/proc/cpuinfo is read", () => {
  const { flags, ...names } = host("GenuineIntel", "sse avx2");
  expect(names).toEqual({ vendor: "GenuineIntel", family: "6", model: "143" });
  expect([...flags]).toEqual(["fpu", "sse", "avx2"]);
});

test.each([
  ["Intel of today", host("GenuineIntel", `${haswell} avx512f`), "Haswell-noTSX"],
  ["older Intel", host("GenuineIntel", v2), "Nehalem"],
  ["Intel that hides a feature", host("GenuineIntel", haswell.replace("pcid", "")), "Nehalem"],
  ["AMD", host("AuthenticAMD", epyc), "EPYC"],
])("with KVM guests see a model by name: %s", (_, cpu, model) => {
  const own = { model: hostModel, class: `host:${cpu.vendor}-6-143` };
  expect(kvmCpus("auto", cpu)).toEqual({ wanted: { model: `${model},enforce`, class: model }, fallback: own });
  expect(kvmCpus("host", cpu)).toEqual({ wanted: own });
  expect(kvmCpus("SapphireRapids", cpu)).toEqual({
    wanted: { model: "SapphireRapids,enforce", class: "SapphireRapids" },
  });
});

test("without a model that fits guests see the host's own processor", () => {
  expect(kvmCpus("auto", host("CentaurHauls", v3))).toEqual({
    wanted: { model: hostModel, class: "host:CentaurHauls-6-143" },
  });
});

test("an emulated processor is the same everywhere, and host is refused by the name of the setting", () => {
  expect(emulatedCpu("auto").class).toBe("emulated");
  expect(emulatedCpu("Nehalem").model).toBe("Nehalem");
  expect(() => emulatedCpu("host")).toThrow("--cpu-model host needs KVM");
  const cpus = new GuestCpus(emulatedCpu("auto"), "tcg", host("AuthenticAMD", epyc));
  for (const wanted of ["emulated", "Nehalem", undefined]) cpus.refuseForeign(wanted);
  expect(cpus.earlierClass).toBe("emulated");
});

test("a snapshot goes on only on a processor of its class, and the refusal names both", () => {
  const intel = host("GenuineIntel", haswell);
  const cpus = new GuestCpus(kvmCpus("auto", intel).wanted, "kvm", intel);
  // What it has by name, what it has as its own, what earlier versions had, and what QEMU will judge.
  for (const wanted of ["Haswell-noTSX", "Nehalem", "host:GenuineIntel-6-143", undefined, "SapphireRapids"]) {
    cpus.refuseForeign(wanted);
  }
  expect(cpus.earlierClass).toBe("host:GenuineIntel-6-143");
  for (const wanted of ["EPYC", "host:GenuineIntel-6-85"]) {
    expect(() => cpus.refuseForeign(wanted)).toThrow(
      `the snapshot needs a processor of class ${wanted}, and this host has host:GenuineIntel-6-143`,
    );
  }
});
