/* The processes that were started through the link: their output, input and end. */
#ifndef FIRKIN_PROCESS_H
#define FIRKIN_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "bytes.h"
#include "loop.h"
#include "streams.h"

enum {
  MAX_PROCESSES = 1024,
  MAX_ENDED = 256,
  REMEMBER_MS = 30000,
  /* Input that waits for a process, over all streams that were attached to it. */
  MAX_WAITING_INPUT = 1 << 20,
};

struct process;

enum process_state {
  PROCESS_RUNNING,
  /* It has exited; its output is not drained, or others hold its pipes. */
  PROCESS_EXITED,
  /* Nothing more will come of it. It is remembered for a while. */
  PROCESS_ENDED,
};

struct process_output {
  struct source source;
  struct process *process;
  uint8_t channel;
  bool open;
  bool readable;
  /* How much more is read; -1: all there is. */
  int64_t quota;
};

struct process_input {
  struct source source;
  bool open;
  bool writable;
  bool close_when_empty;
  struct byte_queue queue;
  /* Bytes at the head of the queue that came from streams attached before. */
  size_t uncredited;
};

struct process {
  struct agent *agent;
  /* Order of starting. */
  uint64_t serial;
  pid_t pid;
  enum process_state state;
  int wait_status;
  /* A TERM or KILL was asked for: once it has exited, others that hold its pipes are not waited for. */
  bool stop_waiting;
  bool terminal;
  struct process_output outputs[2];
  unsigned output_count;
  unsigned next_output;
  struct process_input input;
  /* Fields for LIST, owned. */
  uint8_t *description;
  size_t description_length;
  /* The client's name for it, owned; may be NULL. */
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
  TAILQ_HEAD(process_list, process) processes;
  /* Processes without a stream whose output is there to be thrown away. */
  TAILQ_HEAD(, process) discarding;
  /* Not ended. */
  unsigned live;
  unsigned ended;
  uint64_t last_serial;
  /* No ended process is to be forgotten before. */
  int64_t next_expiry_ms;
  struct source child_signals;
};

/* Descriptors of a new process, each -1 when there is none. Taken over by `process_add`. */
struct process_pipes {
  int input;
  int outputs[2];
};

bool processes_start(struct agent *agent);
/* Forgets all of them; kills nothing. */
void processes_stop(struct agent *agent);

/* Enters a process that was just spawned. On failure the pipes are closed, the process is killed and NULL comes back. */
struct process *process_add(struct agent *agent, pid_t pid, bool terminal, const struct process_pipes *pipes);

/* By pid or tag; one that runs before one that has ended, the newest first. NULL if there is none. */
struct process *process_by_pid(struct agent *agent, pid_t pid);
struct process *process_by_tag(struct agent *agent, const char *tag);

/* Makes this the stream of the process; one that was attached before ends. */
void process_attach(struct process *process, struct stream *stream);

/* Ends the wait for whoever else holds the pipes of the process, now or when it exits. */
void process_stop_waiting(struct process *process);

/* EXIT_CODE EXITED [SIGNAL], unless it runs. */
void process_put_end(const struct process *process, struct writer *writer);

/* Reads and throws away output that nobody wants. True when there is more at once. */
bool processes_discard(struct agent *agent);

/* Forgets those whose time is over; returns when the next one's is (INT64_MAX: none). */
int64_t processes_expire(struct agent *agent, int64_t now);

#endif
