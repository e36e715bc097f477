/**
 * The graph of set-up steps: each step runs as soon as the steps that it needs are done, independent ones at the same
 * time.
 */

/**
 * @typedef {object} StepContext
 * @property {AbortSignal} signal Aborted when another step failed or the user interrupts.
 * @property {(line: string) => void} onLine Reports what the step is doing; goes to its log and the progress line.
 *
 * @typedef {object} Step
 * @property {string} name
 * @property {string} title What it makes, for the user.
 * @property {readonly string[]} needs Names of steps that come before it.
 * @property {readonly string[]} [after] Names of steps that go first where they are wanted, too.
 * @property {() => unknown} isDone Truthy when there is nothing to do. Quick; asked once the needs are done.
 * @property {(context: StepContext) => Promise<unknown>} run
 *
 * @typedef {object} Observer
 * @property {(step: Step) => void} started
 * @property {(step: Step, line: string) => void} line
 * @property {(step: Step) => void} done
 * @property {(step: Step, error: unknown) => void} failed
 */

/**
 * Brings all steps to "done". After a failure nothing new starts and what runs is ended; the first failure is thrown
 * when everything has come to rest.
 * @param {readonly Step[]} steps
 * @param {{ signal: AbortSignal, observer: Observer, beforeWork?: () => unknown }} options `beforeWork` runs before the
 *   first step that has something to do.
 * @returns {Promise<number>} how many steps had something to do
 */
export async function runGraph(steps, { signal, observer, beforeWork }) {
  const failure = new AbortController();
  const stop = AbortSignal.any([signal, failure.signal]);
  /** @type {Map<string, Promise<void>>} */
  const ends = new Map();
  /** @type {Promise<unknown> | undefined} */
  let prepared;
  let worked = 0;

  const bring = async (/** @type {Step} */ step) => {
    await Promise.all([...step.needs, ...(step.after ?? [])].map((name) => ends.get(name)));
    stop.throwIfAborted();
    try {
      if (await step.isDone()) return;
      prepared ??= Promise.resolve(beforeWork?.());
      await prepared;
      // The set-up that held the lock before this one may have done it.
      if (await step.isDone()) return;
      worked++;
      observer.started(step);
      await step.run({ signal: stop, onLine: (line) => observer.line(step, line) });
      observer.done(step);
    } catch (error) {
      if (!stop.aborted) observer.failed(step, error);
      throw error;
    }
  };

  for (const step of steps) {
    for (const need of step.needs)
      if (!ends.has(need)) throw new Error(`${step.name} needs ${need}, which is not before it`);
    const end = bring(step);
    end.catch((error) => failure.abort(error));
    ends.set(step.name, end);
  }
  await Promise.allSettled(ends.values());
  stop.throwIfAborted();
  return worked;
}
