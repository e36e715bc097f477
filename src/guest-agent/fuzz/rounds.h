/*
 * The room `fuzz` holds test programs: the fuzz drivers of a whole agent, and the frame check. It may call `agent.h`,
 * `base` and `link`; no other room may call it.
 *
 * This file: the rounds, each of which throws an input at the agent and judges the answer.
 */
#ifndef FIRKIN_FUZZ_ROUNDS_H
#define FIRKIN_FUZZ_ROUNDS_H

#include <stdbool.h>
#include <stdint.h>

#include "fuzz/input.h"

/* The exit code where the agent cannot be kept from the machine it runs on. */
enum { FUZZ_SKIPPED = 77 };

/* Enters an empty root without network, so that any operation is harmless. `has_proc`: leaks can be looked for. */
bool fuzz_isolate(const char *folder, bool *has_proc);
void fuzz_start(void);
void fuzz_stop(void);
/*
 * Sends an input that begins with the HELLO of that nonce, and then checks that the agent answers a PING. Aborts if
 * anything is wrong.
 */
void fuzz_round(struct fuzz_input *input, uint64_t nonce);

#endif
