/* The output buffer. Frames are built in place, so that no byte of a payload is copied twice. */
#include "link/output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "link/frames.h"

void output_clear(struct output *output) {
  output->head = 0;
  output->length = 0;
}

uint8_t *output_frame_room(struct output *output) {
  size_t end = output->head + output->length;
  if (OUTPUT_BYTES - end >= MAX_FRAME) return output->bytes + end;
  if (OUTPUT_BYTES - output->length < MAX_FRAME) return NULL;
  memmove(output->bytes, output->bytes + output->head, output->length);
  output->head = 0;
  return output->bytes + output->length;
}

void output_add_frame(struct output *output, enum frame_type type, uint8_t channel, uint32_t stream, size_t length) {
  uint8_t *at = output->bytes + output->head + output->length;
  output->length += frame_seal(at, type, channel, stream, length);
}

bool output_write(struct output *output, int fd) {
  while (output->length > 0) {
    ssize_t count = write(fd, output->bytes + output->head, output->length);
    if (count > 0) {
      output->head += (size_t)count;
      output->length -= (size_t)count;
    } else if (count == 0 || errno != EINTR) {
      return false;
    }
  }
  output->head = 0;
  return true;
}
