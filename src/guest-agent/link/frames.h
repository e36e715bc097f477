/* Frames: bytes to frames and back, without any knowledge of streams. */
#ifndef FIRKIN_FRAMES_H
#define FIRKIN_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#include "link/protocol.h"

struct frame {
  uint8_t type;
  uint8_t channel;
  uint32_t stream;
  uint32_t length;
  /* Points into the bytes that were judged. */
  const uint8_t *payload;
};

enum verdict {
  VERDICT_FRAME,      /* a whole good frame */
  VERDICT_PAD,        /* one pad byte */
  VERDICT_INCOMPLETE, /* more bytes are needed to judge */
  VERDICT_UNKNOWN_TYPE,
  VERDICT_BAD_CHANNEL,
  VERDICT_RESERVED_NOT_ZERO,
  VERDICT_TOO_LONG,
  VERDICT_BAD_END_MARK,
};

/* Judges the frame that begins at `bytes`. `frame` is filled as far as the header goes. */
enum verdict frame_judge(const uint8_t *bytes, size_t count, struct frame *frame);

/* The size of header, payload and end mark together. */
static inline size_t frame_size(const struct frame *frame) { return HEADER_BYTES + (size_t)frame->length + 1; }

/* Writes header and end mark around a payload that already stands at `at + HEADER_BYTES`; returns the frame's size. */
size_t frame_seal(uint8_t *at, enum frame_type type, uint8_t channel, uint32_t stream, size_t length);

#endif
