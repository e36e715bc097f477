/* The orderly end. */
#ifndef FIRKIN_SHUTDOWN_H
#define FIRKIN_SHUTDOWN_H

#include <stdbool.h>
#include <stdint.h>

struct agent;
struct stream;

enum shutdown_phase {
  SHUTDOWN_NOT,
  /* TERM was sent, KILL comes at the deadline. */
  SHUTDOWN_TERMINATING,
  SHUTDOWN_KILLING,
  /* All is written; the RESULT is on its way. */
  SHUTDOWN_ANSWERING,
};

struct shutdown {
  bool under_way;
  enum shutdown_phase phase;
  /* When the phase is over at the latest. */
  int64_t deadline_ms;
  /* NULL when the host no longer waits. */
  struct stream *stream;
};

/* Goes on with a shutdown; returns when it wants to be called again at the latest (INT64_MAX: never). */
int64_t shutdown_tick(struct agent *agent, int64_t now);

#endif
