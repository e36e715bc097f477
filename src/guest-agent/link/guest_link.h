/*
 * The room `link` is the guest link: from the bytes of the host to streams, and from an OPEN to the operation of that
 * number in the table it is given. It may call `base` alone, and knows nothing of what operations do.
 *
 * This file: the parts of the guest link, put together.
 */
#ifndef FIRKIN_GUEST_LINK_H
#define FIRKIN_GUEST_LINK_H

#include <stdbool.h>

#include "base/loop.h"
#include "link/dispatch.h"
#include "link/link.h"
#include "link/operations.h"
#include "link/output.h"
#include "link/source.h"
#include "link/streams.h"

struct guest_link {
  struct output output;
  struct stream_table streams;
  struct dispatch dispatch;
  struct link link;
  struct link_source source;
};

/* Readies a guest link that is all zeros. The loop and the operations outlive it. */
void guest_link_start(struct guest_link *link, struct loop *loop, const struct operation_table *operations);
void guest_link_stop(struct guest_link *link);

/* Sends as much as can be sent now. Called within an operation: its stream is gone afterwards if it has finished. */
void guest_link_send(struct guest_link *link);

/* True when the link could receive or send without waiting. */
bool guest_link_is_busy(const struct guest_link *link);

/* True when every stream has ended and the host has taken every byte. */
bool guest_link_is_drained(const struct guest_link *link);

#endif
