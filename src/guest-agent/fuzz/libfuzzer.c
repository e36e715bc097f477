/* The libFuzzer target: fuzz rounds whose bytes libFuzzer chooses. */
#include <stdlib.h>

#include "fuzz/rounds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct fuzz_input input;
  static uint64_t nonce;
  if (nonce == 0) {
    char folder[] = "/tmp/firkin-fuzz-XXXXXX";
    bool has_proc;
    if (mkdtemp(folder) == NULL || !fuzz_isolate(folder, &has_proc)) exit(FUZZ_SKIPPED);
    fuzz_start();
  }
  input.length = 0;
  fuzz_add_hello(&input, ++nonce);
  fuzz_add(&input, data, size);
  fuzz_round(&input, nonce);
  return 0;
}
