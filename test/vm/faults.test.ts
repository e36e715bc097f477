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
  "pause.saved",
  "pause.published",
  "resume.recorded",
  "fork.saved",
  "followup.launched",
  "image.booted",
  "build.saved",
  "kill.decided",
];
const steps = process.env.FIRKIN_TEST_FAULTS === "all" ? {} : { steps: chosen };

faultSuite({ engine: testedEngine, missing: missingForRealMachines(), ...steps });
