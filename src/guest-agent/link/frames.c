/* The framing of README.md. A header is judged whole, so the verdict never depends on how the bytes were cut. */
#include "link/frames.h"

#include "base/bytes.h"

static enum verdict judge_header(const struct frame *frame, uint16_t reserved) {
  uint8_t max_channel = frame->type == FRAME_DATA ? CHANNEL_TERMINAL : 0;
  if (frame->type < FRAME_HELLO || frame->type > FRAME_CONTROL) return VERDICT_UNKNOWN_TYPE;
  if (frame->channel > max_channel) return VERDICT_BAD_CHANNEL;
  if (reserved != 0) return VERDICT_RESERVED_NOT_ZERO;
  if (frame->length > MAX_PAYLOAD) return VERDICT_TOO_LONG;
  return VERDICT_FRAME;
}

enum verdict frame_judge(const uint8_t *bytes, size_t count, struct frame *frame) {
  if (count == 0) return VERDICT_INCOMPLETE;
  if (bytes[0] == 0) return VERDICT_PAD;
  if (count < HEADER_BYTES) return VERDICT_INCOMPLETE;
  frame->type = bytes[0];
  frame->channel = bytes[1];
  frame->stream = get_u32(bytes + 4);
  frame->length = get_u32(bytes + 8);
  frame->payload = bytes + HEADER_BYTES;
  enum verdict verdict = judge_header(frame, get_u16(bytes + 2));
  if (verdict != VERDICT_FRAME) return verdict;
  if (count < frame_size(frame)) return VERDICT_INCOMPLETE;
  return frame->payload[frame->length] == END_MARK ? VERDICT_FRAME : VERDICT_BAD_END_MARK;
}

size_t frame_seal(uint8_t *at, enum frame_type type, uint8_t channel, uint32_t stream, size_t length) {
  at[0] = (uint8_t)type;
  at[1] = channel;
  put_u16(at + 2, 0);
  put_u32(at + 4, stream);
  put_u32(at + 8, (uint32_t)length);
  at[HEADER_BYTES + length] = END_MARK;
  return HEADER_BYTES + length + 1;
}
