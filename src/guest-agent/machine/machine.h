/*
 * The room `machine` holds the operations on the guest as a whole: set-up, metrics, shutdown, and the ports of its
 * network. It may call every room but `fuzz`.
 *
 * This file: the state that its operations share, which is the room of their streams.
 */
#ifndef FIRKIN_MACHINE_H
#define FIRKIN_MACHINE_H

#include <stdbool.h>

#include "accounts/accounts.h"
#include "base/loop.h"
#include "link/guest_link.h"
#include "process/process.h"

/* The rights of the agent over the machine around it. */
struct options {
  /* The agent is the init process of a VM: it reaps orphans and powers off. */
  bool is_init;
  /* SETUP may set clock, entropy and host name. */
  bool privileged_setup;
  /* The kernel is gVisor: clock and random pool are the host's own, and the machine ends with its first process. */
  bool is_gvisor;
  /* The program that is kept running, for tests; NULL: that of the root disk, in a VM. */
  const char *keep;
};

enum shutdown_phase {
  SHUTDOWN_NOT,
  /* TERM was sent. KILL comes at the deadline. */
  SHUTDOWN_TERMINATING,
  SHUTDOWN_KILLING,
  /* Everything is written. The RESULT is on its way. */
  SHUTDOWN_ANSWERING,
};

struct shutdown {
  bool under_way;
  enum shutdown_phase phase;
  /* The end of the phase at the latest. */
  int64_t deadline_ms;
  /* NULL when the host no longer waits. */
  struct stream *stream;
  /* An agent that is an ordinary process must exit now. */
  bool over;
};

struct machine {
  struct options options;
  struct loop *loop;
  struct guest_link *link;
  struct accounts *accounts;
  struct process_table *processes;
  struct shutdown shutdown;
};

#endif
