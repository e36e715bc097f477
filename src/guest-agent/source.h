/* Where the link to the host comes from. */
#ifndef FIRKIN_SOURCE_H
#define FIRKIN_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"

struct agent;

enum link_source_kind {
  /* An inherited descriptor; the agent exits at its end. */
  LINK_FD,
  /* A Unix socket that the agent connects to, again and again. */
  LINK_CONNECT,
  /* A vsock port that the host connects to; the newest connection counts. */
  LINK_VSOCK,
  /* The virtio-serial port with the name of the agent. */
  LINK_PORT,
};

struct link_source {
  enum link_source_kind kind;
  const char *path;
  unsigned vsock_port;
  struct source listener;
  /* When to try again; INT64_MAX: nothing to try. */
  int64_t retry_ms;
  /* A serial port: since when it reads as ended; 0: it does not. */
  int64_t ended_since_ms;
};

/* Takes over an inherited descriptor. */
bool source_use_fd(struct agent *agent, int fd);
void source_use_path(struct agent *agent, const char *path);
bool source_use_vsock(struct agent *agent, unsigned port);
void source_use_port(struct agent *agent);

/* The other end is gone (error 0) or the descriptor broke. */
void source_hung_up(struct agent *agent, int error);

/* There is a host: it sent something, or is there and silent. */
void source_heard(struct agent *agent);

/* Tries what is due; returns when it wants to be called again at the latest. */
int64_t source_tick(struct agent *agent, int64_t now);

#endif
