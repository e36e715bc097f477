/** A set-up step that failed in a way the user can do something about. */
export class SetupError extends Error {
  /**
   * @param {string} message What went wrong.
   * @param {string} [remedy] What to do next, as an instruction.
   */
  constructor(message, remedy) {
    super(message);
    this.name = "SetupError";
    this.remedy = remedy;
  }
}
