/*
 * The room `process` starts programs and carries their input, output and end. It may call `base`, `link` and
 * `accounts`.
 *
 * This file: one process that was started through the link, and the table of all of them.
 */
#ifndef FIRKIN_PROCESS_H
#define FIRKIN_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "accounts/accounts.h"
#include "base/bytes.h"
#include "base/loop.h"
#include "link/streams.h"
#include "process/helpers.h"
#include "process/keeper.h"

enum {
  MAX_PROCESSES = 1024,
  MAX_ENDED = 256,
  REMEMBER_MS = 30000,
  /* Input that waits for one process, of all streams that were attached to it. */
  MAX_WAITING_INPUT = 1 << 20,
};

struct process;

enum process_state {
  PROCESS_RUNNING,
  /* The process has exited. Its output is not drained, or other processes hold its pipes. */
  PROCESS_EXITED,
  /* The process has exited and its output is drained. It is remembered for REMEMBER_MS. */
  PROCESS_ENDED,
};

struct process_output {
  struct event_source source;
  struct process *process;
  uint8_t channel;
  bool open;
  bool readable;
  /* Bytes that are still read; -1: all bytes. */
  int64_t quota;
};

struct process_input {
  struct event_source source;
  bool open;
  bool writable;
  bool close_when_empty;
  struct byte_queue queue;
  /* Bytes at the head of the queue that came from streams attached before. */
  size_t uncredited;
};

struct process {
  struct process_table *table;
  /* Order of starting. */
  uint64_t serial;
  pid_t pid;
  enum process_state state;
  int wait_status;
  /* A client has asked for TERM or KILL. After the exit, other processes that hold the pipes are not waited for. */
  bool stop_waiting;
  bool terminal;
  struct process_output outputs[2];
  unsigned output_count;
  unsigned next_output;
  struct process_input input;
  /* The fields that LIST sends, owned. */
  uint8_t *description;
  size_t description_length;
  /* The client's name for the process, owned; may be NULL. */
  char *tag;
  struct stream *attached;
  /* The attached stream has had its EVENT started. */
  bool announced;
  bool discarding;
  int64_t ended_ms;
  TAILQ_ENTRY(process) links;
  TAILQ_ENTRY(process) discard_links;
};

struct process_table {
  struct loop *loop;
  struct accounts *accounts;
  struct helper_table helpers;
  struct keeper keeper;
  /* Processes are killed when the agent dies, because it is not the init process of a VM. */
  bool die_with_agent;
  TAILQ_HEAD(process_list, process) processes;
  /* Processes without a stream that have output to be thrown away. */
  TAILQ_HEAD(, process) discarding;
  /* Processes that have not ended. */
  unsigned live;
  unsigned ended;
  uint64_t last_serial;
  /* No ended process is due to be forgotten before this time. */
  int64_t next_expiry_ms;
  struct event_source child_signals;
};

#endif
