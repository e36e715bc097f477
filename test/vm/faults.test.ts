/**
 * The fault suite on the engine of the tests with real machines: at those lifecycle steps after which most is left to
 * clear up, or at every step with `npm run faults`, which takes ten minutes under emulation.
 */
import type { LifecycleStep } from "../../src/lifecycle-steps.ts";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { faultSuite } from "../support/faults/suite.ts";

const chosen: readonly LifecycleStep[] = [
  "create.launched",
  "pool.checked_out",
  "refill.recorded",
  "pause.registered",
  "pause.saved",
  "pause.published",
  "resume.recorded",
  "fork.saved",
  "fork.recorded",
  "snapshot.saved",
  "followup.launched",
  "image.disk",
  "image.booted",
  "build.recorded",
  "build.saved",
  "kill.decided",
];
const steps = process.env.FIRKIN_TEST_FAULTS === "all" ? {} : { steps: chosen };

faultSuite({ engine: testedEngine, missing: missingForRealMachines(), ...steps });
