/* Fuzzing a whole agent: random bytes in, and what must hold of what comes out. */
#ifndef FIRKIN_FUZZ_H
#define FIRKIN_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  FUZZ_INPUT_BYTES = 262144,
  /* Exit code where the agent cannot be kept from the machine it runs on. */
  FUZZ_SKIPPED = 77,
};

/* What is thrown at the agent next. */
struct fuzz_input {
  size_t length;
  uint8_t bytes[FUZZ_INPUT_BYTES];
};

/* fuzz.c: the agent under test */

/* An empty root without network, so that the agent can be asked for anything. `has_proc`: leaks can be looked for. */
bool fuzz_isolate(const char *folder, bool *has_proc);
void fuzz_start(void);
void fuzz_stop(void);
/* Appends zeros and a HELLO. */
void fuzz_add_hello(struct fuzz_input *input, uint64_t nonce);
/* Appends what fits. */
void fuzz_add(struct fuzz_input *input, const void *bytes, size_t count);
/* Sends what begins with the HELLO of that nonce, and then sees that the agent answers a PING. Aborts if anything is wrong. */
void fuzz_round(struct fuzz_input *input, uint64_t nonce);

/* fuzz_make.c: what to throw */

void fuzz_seed(uint64_t seed);
bool fuzz_load(const char *path);
void fuzz_unload(void);
/* Appends random frames or a corpus file, often damaged. */
void fuzz_make(struct fuzz_input *input);

#endif
