/* The dispatch acts on good frames: an OPEN starts a stream, any other frame goes to the stream that it names. */
#ifndef FIRKIN_DISPATCH_H
#define FIRKIN_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link/frames.h"
#include "link/operations.h"
#include "link/streams.h"

/* The parts of an OPEN that comes in several frames. */
struct open_parts {
  uint32_t stream;
  uint16_t operation;
  bool too_long;
  /* NULL when no OPEN is under way. */
  uint8_t *fields;
  size_t length;
};

struct dispatch {
  struct stream_table *streams;
  const struct operation_table *operations;
  struct open_parts parts;
};

/* Acts on a frame other than HELLO. False when the frame breaks the protocol. */
bool dispatch_frame(struct dispatch *dispatch, const struct frame *frame);

/* False while an OPEN cannot even be refused. */
bool dispatch_has_room(const struct dispatch *dispatch);

/* Forgets everything that belongs to the connection. */
void dispatch_forget(struct dispatch *dispatch);

#endif
