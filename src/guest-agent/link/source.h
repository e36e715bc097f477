/* The link source: where the link's descriptor comes from, and what its end means. */
#ifndef FIRKIN_LINK_SOURCE_H
#define FIRKIN_LINK_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "link/link.h"

enum link_source_kind {
  /* An inherited descriptor. Its end is the end of the agent. */
  LINK_FD,
  /* A Unix socket that the agent connects to, again after every end. */
  LINK_CONNECT,
  /* A vsock port that the host connects to. The newest connection counts. */
  LINK_VSOCK,
  /* The virtio-serial port with the name of the agent. */
  LINK_PORT,
  /* Standard input and output, which stay however often the host comes and goes. */
  LINK_STANDARD,
};

struct link_source {
  struct link *link;
  enum link_source_kind kind;
  const char *path;
  unsigned vsock_port;
  struct event_source listener;
  /* An inherited descriptor has ended. */
  bool over;
  /* When to try again; INT64_MAX: there is nothing to try. */
  int64_t retry_ms;
  /* A serial port: since when it has read as ended; 0: it does not read as ended. */
  int64_t ended_since_ms;
};

/* Readies a source of no kind yet. The link outlives it. */
void source_start(struct link_source *source, struct link *link);
void source_stop(struct link_source *source);

/* One of these chooses the kind. False with errno. */
bool source_use_fd(struct link_source *source, int fd);
bool source_use_standard(struct link_source *source);
void source_use_path(struct link_source *source, const char *path);
bool source_use_vsock(struct link_source *source, unsigned port);
void source_use_port(struct link_source *source);

/* Receives from the link, and prepares the next descriptor when this one has ended. */
void source_receive(struct link_source *source);

/* Tries to open the link when that is due; returns when the next call is due at the latest. */
int64_t source_tick(struct link_source *source, int64_t now);

#endif
