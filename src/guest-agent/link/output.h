/* The output: one bounded buffer of frames on their way to the host. */
#ifndef FIRKIN_OUTPUT_H
#define FIRKIN_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link/protocol.h"

enum { OUTPUT_BYTES = 262144 };

struct output {
  size_t head;
  size_t length;
  uint8_t bytes[OUTPUT_BYTES];
};

/* Throws all bytes away, also the rest of a frame that was sent in part. */
void output_clear(struct output *output);

/* Where the next frame goes (MAX_FRAME bytes), or NULL while the buffer is full. */
uint8_t *output_frame_room(struct output *output);
/* Adds the frame whose payload stands at `output_frame_room() + HEADER_BYTES`. */
void output_add_frame(struct output *output, enum frame_type type, uint8_t channel, uint32_t stream, size_t length);

/* Writes as much as the descriptor takes. False when the descriptor takes no more at present. */
bool output_write(struct output *output, int fd);

#endif
