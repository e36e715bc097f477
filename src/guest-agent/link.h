/* The byte stream to the host: resynchronisation, hello, and the one bounded buffer in each direction. */
#ifndef FIRKIN_LINK_H
#define FIRKIN_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frames.h"
#include "loop.h"

struct agent;

enum { LINK_INPUT_BYTES = 131072, LINK_OUTPUT_BYTES = 262144 };

struct link {
  struct agent *agent;
  struct source source;
  /* A descriptor is there. */
  bool open;
  bool readable;
  bool writable;
  /* Bytes are thrown away until a HELLO is found. */
  bool lost;
  /* Input waits for streams to end. */
  bool paused;
  size_t input_length;
  size_t output_head;
  size_t output_length;
  uint8_t input[LINK_INPUT_BYTES];
  uint8_t output[LINK_OUTPUT_BYTES];
};

void link_start(struct link *link, struct agent *agent);

/* Serves a new descriptor, non-blocking and owned from now on; what was before is forgotten. False with errno. */
bool link_attach(struct link *link, int fd);
void link_detach(struct link *link);

/* The end of a connection, with the descriptor kept: streams, input and output are forgotten. */
void link_reset(struct link *link);

/* Reads what there is, at most one buffer, and acts on it. */
void link_receive(struct link *link);
/* Acts on bytes as if they had been read; at most LINK_INPUT_BYTES minus what is buffered. For link_receive and tests. */
void link_feed(struct link *link, const uint8_t *bytes, size_t count);
/* Writes what the host takes. */
void link_send(struct link *link);
/* True when reading or writing would get on without waiting. */
bool link_is_busy(const struct link *link);

/* Where the next frame goes (MAX_FRAME bytes), or NULL while the output is full. */
uint8_t *link_frame_room(struct link *link);
/* Sends the frame whose payload was put at `link_frame_room() + HEADER_BYTES`. */
void link_send_frame(struct link *link, enum frame_type type, uint8_t channel, uint32_t stream, size_t length);

#endif
