/* The input of a fuzz round. */
#ifndef FIRKIN_FUZZ_INPUT_H
#define FIRKIN_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>

#include "link/protocol.h"

enum {
  FUZZ_INPUT_BYTES = 262144,
  /* The zeros before a HELLO. */
  FUZZ_PREAMBLE = 32800,
};

struct fuzz_input {
  size_t length;
  uint8_t bytes[FUZZ_INPUT_BYTES];
};

/* Appends the bytes if they fit. */
void fuzz_add(struct fuzz_input *input, const void *bytes, size_t count);
/* Appends a frame with a payload of at most 240 bytes. */
void fuzz_add_frame(struct fuzz_input *input, enum frame_type type, uint32_t stream, const uint8_t *payload,
                    size_t length);
/* Appends zeros and a HELLO. */
void fuzz_add_hello(struct fuzz_input *input, uint64_t nonce);

#endif
