/**
 * What is changed in gVisor so that its queues of reads and writes fit a small machine. As it comes, a queue has 128
 * threads, and Go runs on 128 processors more than there are for as long as it lives. The queue that reads the memory of a
 * restored machine lives as long as the machine.
 */

/** As those of `edits.mjs`. */
export const queueEdits = [
  {
    file: "pkg/sentry/state/stateio/pagesfile.go",
    from: "\tpagesFileFDDefaultMaxParallel = 128\n",
    to: "\tpagesFileFDDefaultMaxParallel = 4\n",
  },
];
