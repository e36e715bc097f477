/*
 * The agent as a whole: the parts of all rooms, one of each, and the rounds in which they work. The files at this level
 * put the rooms together and may call all of them but `fuzz`.
 */
#ifndef FIRKIN_AGENT_H
#define FIRKIN_AGENT_H

#include <stdbool.h>

#include "accounts/accounts.h"
#include "base/loop.h"
#include "files/files.h"
#include "link/guest_link.h"
#include "machine/machine.h"
#include "process/process.h"

struct agent {
  struct loop loop;
  struct operation_table operations;
  struct guest_link link;
  struct accounts accounts;
  struct process_table processes;
  struct file_room files;
  struct machine machine;
  /* The last round left work that can be done at once. */
  bool has_more;
};

/* Readies an agent that is all zeros. False with a message on stderr. */
bool agent_start(struct agent *agent, struct options options);

/* One round: waits at most `max_wait_ms` (-1: without end) for something to happen, and acts on it. */
void agent_turn(struct agent *agent, int max_wait_ms);

/* True when an agent that is an ordinary process must exit. */
bool agent_is_over(const struct agent *agent);

/* Ends the children and frees the memory of an agent that is an ordinary process. */
void agent_stop(struct agent *agent);

#endif
