/* ATTACH, LIST and SIGNAL: the operations on processes that were started before. */
#include "process/ask.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "accounts/paths.h"
#include "process/output.h"
#include "process/session.h"
#include "process/table.h"

static struct process *find_by_pid(struct stream *stream, uint64_t pid) {
  struct process *process = pid > 0 && pid <= INT_MAX ? process_by_pid(stream->room, (pid_t)pid) : NULL;
  if (process == NULL) {
    stream_fail(stream, STATUS_NOT_FOUND, "process with pid %llu not found", (unsigned long long)pid);
  }
  return process;
}

static struct process *find_by_tag(struct stream *stream, const char *tag) {
  struct process *process = process_by_tag(stream->room, tag);
  if (process == NULL) stream_fail(stream, STATUS_NOT_FOUND, "process with tag %s not found", tag);
  return process;
}

void open_attach(struct request *request) {
  char tag[PATH_BYTES];
  bool has_tag = request_text(request, TAG_TAG, tag, sizeof tag);
  bool has_pid = request_has(request, TAG_PID);
  uint64_t pid = request_int(request, TAG_PID, 0);
  if (request->problem == NULL && !has_pid && !has_tag) request->problem = "there is neither a pid nor a tag";
  if (request_refused(request)) return;
  struct process *process = has_pid ? find_by_pid(request->stream, pid) : find_by_tag(request->stream, tag);
  if (process != NULL) process_attach(process, request->stream);
}

/* A LIST that is under way. */
struct listing {
  /* The serial number of the last process that was sent. */
  uint64_t sent;
};

/* False when the process did not fit. */
static bool put_process(struct writer *writer, const struct process *process) {
  size_t before = writer->length;
  size_t mark = begin_group(writer, TAG_PROCESS);
  put_int(writer, TAG_PID, (uint64_t)process->pid);
  process_put_end(process, writer);
  put_fields(writer, process->description, process->description_length);
  end_group(writer, mark);
  if (!writer->overflow) return true;
  writer->length = before;
  writer->overflow = false;
  return false;
}

/* Writes as many processes as fit. True when the last one is written. */
static bool put_processes(const struct process_table *table, struct writer *writer, uint64_t *sent) {
  const struct process *process;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->serial <= *sent) continue;
    if (!put_process(writer, process)) return false;
    *sent = process->serial;
  }
  return true;
}

static enum turn serve_list(struct stream *stream) {
  struct listing *listing = stream->job;
  if (!stream_can_send_event(stream)) return TURN_IDLE;
  writer_start(&stream->table->scratch, EVENT_PROCESSES);
  if (put_processes(stream->room, &stream->table->scratch, &listing->sent)) {
    stream_finish_with_scratch(stream, STATUS_OK);
  } else {
    stream_send_event(stream);
  }
  return TURN_WORKED;
}

static void release_list(struct stream *stream) { free(stream->job); }

static const struct stream_work list_work = {.serve = serve_list, .release = release_list};

void open_list(struct request *request) {
  struct listing *listing = calloc(1, sizeof *listing);
  if (listing == NULL) {
    stream_fail(request->stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return;
  }
  stream_begin(request->stream, &list_work, listing);
}

void open_signal(struct request *request) {
  uint64_t pid = request_int(request, TAG_PID, 0);
  uint64_t number = request_int(request, TAG_SIGNAL, 0);
  struct stream *stream = request->stream;
  if (request->problem == NULL && (number == 0 || number >= NSIG)) request->problem = "there is no such signal";
  if (request_refused(request)) return;
  struct process *process = find_by_pid(stream, pid);
  if (process == NULL) return;
  bool is_end = number == SIGTERM || number == SIGKILL;
  bool runs = process->state == PROCESS_RUNNING;
  if (runs && kill(process->pid, (int)number) != 0) {
    stream_fail_errno(stream, errno, NULL, "cannot send the signal");
    return;
  }
  if (is_end && process->state != PROCESS_ENDED) session_end(process->pid, runs, (int)number);
  if (is_end) process_stop_waiting(process);
  stream_finish(stream, STATUS_OK);
}
