/* The agent as a whole: one of these per program, handed to everything that needs it. */
#ifndef FIRKIN_AGENT_H
#define FIRKIN_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "fields.h"
#include "helpers.h"
#include "link.h"
#include "loop.h"
#include "process.h"
#include "protocol.h"
#include "request.h"
#include "settings.h"
#include "shutdown.h"
#include "source.h"
#include "streams.h"
#include "users.h"

/* What the agent may do to the machine around it. */
struct options {
  /* It is the init process of a VM: reaps orphans, powers off. */
  bool is_init;
  /* SETUP may set clock, entropy and hostname. */
  bool privileged_setup;
};

struct agent {
  struct options options;
  struct loop loop;
  struct link_source link_source;
  struct link link;
  struct stream_table streams;
  struct open_parts open_parts;
  struct process_table processes;
  struct helper_table helpers;
  struct settings settings;
  struct account_book accounts;
  struct shutdown shutdown;
  /* Where payloads of events and results are put together; never kept across calls. */
  struct writer scratch;
  uint8_t scratch_bytes[MAX_PAYLOAD];
  /* The last round left something that can be done at once. */
  bool has_more;
  /* Only in the modes that are ordinary processes. */
  bool should_exit;
};

/* Readies everything but the link of an agent that is all zeros. False with a message on stderr. */
bool agent_start(struct agent *agent, struct options options);

/* One round: waits for something to happen (at most that long, -1: without end), and does it. */
void agent_turn(struct agent *agent, int max_wait_ms);

/* Sends what can be sent now. Within an operation: its stream is gone afterwards if it has finished. */
void agent_send(struct agent *agent);

/* Ends what an ordinary process leaves behind: its children, its memory. */
void agent_stop(struct agent *agent);

#endif
