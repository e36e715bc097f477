/* The input of a fuzz round, put together. */
#include "fuzz/input.h"

#include <string.h>

#include "base/bytes.h"
#include "link/frames.h"

void fuzz_add(struct fuzz_input *input, const void *bytes, size_t count) {
  if (count > sizeof input->bytes - input->length) return;
  if (count > 0) memcpy(input->bytes + input->length, bytes, count);
  input->length += count;
}

void fuzz_add_frame(struct fuzz_input *input, enum frame_type type, uint32_t stream, const uint8_t *payload,
                    size_t length) {
  uint8_t frame[256];
  memcpy(frame + HEADER_BYTES, payload, length);
  fuzz_add(input, frame, frame_seal(frame, type, 0, stream, length));
}

void fuzz_add_hello(struct fuzz_input *input, uint64_t nonce) {
  static const uint8_t zeros[FUZZ_PREAMBLE];
  uint8_t hello[HELLO_BYTES] = {'f', 'i', 'r', 'k', 'i', 'n', 0, 1, 0, PROTOCOL_VERSION};
  put_u64(hello + 10, nonce);
  put_u64(hello + 18, ~nonce);
  fuzz_add(input, zeros, sizeof zeros);
  fuzz_add_frame(input, FRAME_HELLO, 0, hello, sizeof hello);
}
