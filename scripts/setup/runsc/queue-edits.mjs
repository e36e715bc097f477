/**
 * What is changed in gVisor so that its queue of reads and writes fits two processors. As it comes, a queue has 128
 * threads, and as long as it lives Go runs on 128 processors more than there are. The queue that reads the memory of a
 * restored machine lives as long as the machine, which made each wake-up of a thread of gVisor look at 130 processors.
 */

const queue = "pkg/aio/aio.go";

/** As those of `edits.mjs`. */
export const queueEdits = [
  {
    file: "pkg/sentry/state/stateio/pagesfile.go",
    from: "\tpagesFileFDDefaultMaxParallel = 128\n",
    to: "\tpagesFileFDDefaultMaxParallel = 4\n",
  },
];
