/* The link: the byte stream to the host, with resynchronisation, HELLO and one bounded input buffer. */
#ifndef FIRKIN_LINK_H
#define FIRKIN_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "link/dispatch.h"
#include "link/output.h"

enum { LINK_INPUT_BYTES = 131072, BOOT_ID_BYTES = 64 };

struct link {
  struct loop *loop;
  struct output *output;
  struct dispatch *dispatch;
  struct event_source source;
  /* Where output goes, when that is another descriptor. */
  struct event_source sink;
  bool has_sink;
  /* There is a descriptor. */
  bool open;
  bool readable;
  bool writable;
  /* Bytes are thrown away until a HELLO is found. */
  bool lost;
  /* Input waits until streams end. */
  bool paused;
  char boot_id[BOOT_ID_BYTES];
  size_t input_length;
  uint8_t input[LINK_INPUT_BYTES];
};

/* What a look at the descriptor showed. */
enum link_news {
  LINK_NOT_READ,
  /* There is a host: it sent something, or is there and silent. */
  LINK_HEARD,
  /* The other end is gone. */
  LINK_ENDED,
  /* The descriptor broke; errno says how. */
  LINK_BROKEN,
};

/* Readies a link without a descriptor. The loop, the output and the dispatch outlive it. */
void link_start(struct link *link, struct loop *loop, struct output *output, struct dispatch *dispatch);

/*
 * Serves a new descriptor, which is non-blocking and the link's own from now on. The connection before it is forgotten.
 * False with errno; the descriptor stays the caller's then.
 */
bool link_attach(struct link *link, int fd);
/* The same for a stream of two descriptors. */
bool link_attach_pair(struct link *link, int in, int out);
void link_detach(struct link *link);

/* The end of a connection whose descriptor stays: streams, input and output are forgotten. */
void link_reset(struct link *link);

/* Reads the bytes that are there, at most one buffer, and acts on them. */
enum link_news link_receive(struct link *link);
/* Writes as much of the output as the host takes. */
void link_send(struct link *link);
/* True when reading or writing could go on without waiting. */
bool link_is_busy(const struct link *link);

#endif
