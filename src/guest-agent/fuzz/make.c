/* The making of fuzz input. Its random frames make enough sense to get past the decoder. */
#include "fuzz/make.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "link/frames.h"
#include "link/protocol.h"

enum { MAX_FILES = 256, MAX_FILE_BYTES = FUZZ_INPUT_BYTES / 2 };

struct corpus_file {
  uint8_t *bytes;
  size_t length;
};

static struct corpus_file corpus[MAX_FILES];
static size_t corpus_count;
static uint64_t random_state = 1;

void fuzz_seed(uint64_t seed) { random_state = seed * 2654435769u + 1; }

static uint32_t roll(uint32_t sides) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (uint32_t)(random_state >> 32) % sides;
}

bool fuzz_load(const char *path) {
  struct corpus_file file = {.bytes = malloc(MAX_FILE_BYTES)};
  FILE *input = fopen(path, "r");
  if (file.bytes != NULL && input != NULL) file.length = fread(file.bytes, 1, MAX_FILE_BYTES, input);
  if (input != NULL) fclose(input);
  if (file.length > 0 && corpus_count < MAX_FILES) {
    corpus[corpus_count++] = file;
    return true;
  }
  free(file.bytes);
  return false;
}

void fuzz_unload(void) {
  while (corpus_count > 0) free(corpus[--corpus_count].bytes);
}

static const char *const texts[] = {"",     "/",    "/a",  "/a/b/c", "~/x",     "..",       "/a/../../b", "root", "0",
                                    "true", "/a/b", "A=1", "=",      "PATH=/a", "relative", "/c/d/e/f",   "host"};

static size_t random_field(uint8_t *at) {
  uint8_t tag = (uint8_t)(1 + roll(50));
  size_t length;
  switch (roll(4)) {
    case 0:
      length = 8;
      put_u64(at + 5, roll(3) == 0 ? ~0ull : roll(300));
      break;
    case 1:
      length = 1;
      at[5] = (uint8_t)roll(3);
      break;
    default: {
      const char *text = texts[roll(sizeof texts / sizeof texts[0])];
      length = strlen(text);
      memcpy(at + 5, text, length);
    }
  }
  at[0] = tag;
  put_u32(at + 1, (uint32_t)length);
  return 5 + length;
}

static void add_random_frame(struct fuzz_input *input) {
  static const uint8_t types[] = {FRAME_OPEN, FRAME_OPEN, FRAME_OPEN,  FRAME_OPEN,    FRAME_DATA,
                                  FRAME_END,  FRAME_DATA, FRAME_RESET, FRAME_CONTROL, FRAME_WINDOW};
  uint8_t payload[1024];
  uint8_t frame[sizeof payload + HEADER_BYTES + 1];
  uint8_t type = types[roll(sizeof types)];
  uint32_t stream = type == FRAME_OPEN ? 1 + roll(2000) : 1 + roll(40);
  size_t length = 0;
  if (type == FRAME_OPEN || type == FRAME_CONTROL) {
    put_u16(payload, (uint16_t)(1 + roll(20)));
    length = 2;
    for (uint32_t fields = roll(8); fields > 0; fields--) length += random_field(payload + length);
  } else if (type == FRAME_DATA) {
    length = roll(sizeof payload);
    memset(payload, 'd', length);
  } else if (type == FRAME_WINDOW) {
    length = 4;
    put_u32(payload, roll(2) == 0 ? 0 : roll(70000));
  }
  memcpy(frame + HEADER_BYTES, payload, length);
  fuzz_add(input, frame, frame_seal(frame, type, 0, stream, length));
}

/* Damages the input from `from` on. */
static void mutate(struct fuzz_input *input, size_t from) {
  if (input->length == from) return;
  for (uint32_t times = 1 + roll(6); times > 0; times--) {
    size_t at = from + roll((uint32_t)(input->length - from));
    switch (roll(4)) {
      case 0: input->bytes[at] = (uint8_t)roll(256); break;
      case 1: input->bytes[at] ^= (uint8_t)(1u << roll(8)); break;
      case 2: input->length = at + 1; break;
      default: fuzz_add(input, input->bytes + from, roll((uint32_t)(input->length - from)));
    }
  }
}

void fuzz_make(struct fuzz_input *input) {
  size_t from = input->length;
  if (corpus_count > 0 && roll(4) == 0) {
    const struct corpus_file *file = &corpus[roll((uint32_t)corpus_count)];
    fuzz_add(input, file->bytes, file->length);
  } else {
    for (uint32_t frames = 1 + roll(20); frames > 0; frames--) add_random_frame(input);
  }
  if (roll(2) == 0) mutate(input, from);
}
