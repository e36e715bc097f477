/* Child processes of the agent itself, for what would hold up the loop. */
#ifndef FIRKIN_HELPERS_H
#define FIRKIN_HELPERS_H

#include <stdbool.h>
#include <sys/types.h>

#include "streams.h"

enum { MAX_HELPERS = 8 };

struct helper {
  /* 0: the slot is free. */
  pid_t pid;
  /* Whose RESULT depends on it; NULL if nobody waits. */
  struct stream *stream;
};

struct helper_table {
  struct helper helpers[MAX_HELPERS];
};

/* Flushes the file systems in a child; the stream ends `ok` when that is done. */
void helper_sync(struct stream *stream);

/* A child that is no process of a client has ended. */
void helper_reaped(struct agent *agent, pid_t pid, int wait_status);

#endif
