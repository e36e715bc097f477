/*
 * The frame check judges the bytes on stdin with the agent's decoder and prints a line per frame. A test compares it
 * with the host's decoder over test/corpus. The last line is "end N" (N bytes of an incomplete frame) or "error NAME
 * OFFSET".
 */
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "link/frames.h"

enum { MAX_INPUT = 1 << 20 };

static const char *const types[] = {"",      "HELLO",  "WELCOME", "OPEN",  "DATA",   "END",
                                    "EVENT", "RESULT", "WINDOW",  "RESET", "CONTROL"};

static const char *error_name(enum verdict verdict) {
  switch (verdict) {
    case VERDICT_UNKNOWN_TYPE: return "unknown_type";
    case VERDICT_BAD_CHANNEL: return "bad_channel";
    case VERDICT_RESERVED_NOT_ZERO: return "reserved_not_zero";
    case VERDICT_TOO_LONG: return "too_long";
    default: return "bad_end_mark";
  }
}

/* FNV-1a with 32 bits, which is enough to see that both sides cut out the same bytes. */
static uint32_t hash(const uint8_t *bytes, size_t count) {
  uint32_t value = 2166136261u;
  for (size_t i = 0; i < count; i++) value = (value ^ bytes[i]) * 16777619u;
  return value;
}

int main(void) {
  static uint8_t input[MAX_INPUT];
  size_t length = 0, at = 0;
  ssize_t count;
  while (length < sizeof input && (count = read(0, input + length, sizeof input - length)) > 0) length += (size_t)count;
  for (;;) {
    struct frame frame;
    enum verdict verdict = frame_judge(input + at, length - at, &frame);
    if (verdict == VERDICT_INCOMPLETE) {
      printf("end %zu\n", length - at);
      return 0;
    }
    if (verdict == VERDICT_PAD) {
      at++;
      continue;
    }
    if (verdict != VERDICT_FRAME) {
      printf("error %s %zu\n", error_name(verdict), at);
      return 1;
    }
    printf("%s channel=%u stream=%u length=%u hash=%08x\n", types[frame.type], frame.channel, frame.stream,
           frame.length, hash(frame.payload, frame.length));
    at += frame_size(&frame);
  }
}
