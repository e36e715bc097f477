/*
 * The operation table: the operations that an OPEN can ask for, by their numbers. `operations.c` of the agent fills it.
 */
#ifndef FIRKIN_LINK_OPERATIONS_H
#define FIRKIN_LINK_OPERATIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "link/fields.h"
#include "link/protocol.h"
#include "link/request.h"
#include "link/streams.h"

enum { OPERATION_SLOTS = OP_COMPOSE + 1 };

struct operation {
  /* Ends the stream or gives it work. NULL: there is no operation with this number. */
  void (*open)(struct request *request);
  /* Becomes the stream's `room`. */
  void *room;
};

struct operation_table {
  struct operation slots[OPERATION_SLOTS];
  /* Called before every operation. False when it has ended the stream, because the agent refuses the operation now. */
  bool (*admit)(void *context, struct stream *stream, uint16_t operation);
  void *context;
};

/* Opens the operation on a new stream, or ends the stream. */
void operation_open(const struct operation_table *table, struct stream *stream, uint16_t operation,
                    struct slice fields);

#endif
