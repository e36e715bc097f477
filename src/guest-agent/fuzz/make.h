/* The making of fuzz input: random frames and corpus files, whole and damaged. A seed makes it repeatable. */
#ifndef FIRKIN_FUZZ_MAKE_H
#define FIRKIN_FUZZ_MAKE_H

#include <stdbool.h>

#include "fuzz/input.h"

void fuzz_seed(uint64_t seed);
/* Adds a file to the corpus. False when the file cannot be read or the corpus is full. */
bool fuzz_load(const char *path);
void fuzz_unload(void);
/* Appends random frames or a corpus file, often damaged. */
void fuzz_make(struct fuzz_input *input);

#endif
