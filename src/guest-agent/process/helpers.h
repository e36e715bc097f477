/* Helpers: child processes of the agent itself, for work that would hold up the event loop. */
#ifndef FIRKIN_HELPERS_H
#define FIRKIN_HELPERS_H

#include <stdbool.h>
#include <sys/types.h>

#include "link/request.h"
#include "link/streams.h"

enum { MAX_HELPERS = 8 };

struct helper {
  /* 0: the slot is free. */
  pid_t pid;
  /* The stream that waits for the helper; NULL if none does. */
  struct stream *stream;
};

struct helper_table {
  struct helper helpers[MAX_HELPERS];
};

/* SYNC: flushes the file systems in a child. The stream ends `ok` when that is done. */
void open_sync(struct request *request);

/* A child that is no process of a client has ended. */
void helper_reaped(struct helper_table *table, pid_t pid, int wait_status);

#endif
