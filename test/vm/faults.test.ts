/** The fault suite at every lifecycle step, on the engine of the tests with real machines. */
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { faultSuite } from "../support/faults/suite.ts";

faultSuite({ engine: testedEngine, missing: missingForRealMachines() });
