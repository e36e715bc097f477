/** The engine that a test's machines run on: as the caller, the project or the shared daemon says. */
export const testedEngine = () => process.env.FIRKIN_TEST_ENGINE ?? "auto";
