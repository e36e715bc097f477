/* Input on its way to a process. The stream is credited when the process has taken the bytes, not while they wait. */
#include "process/input.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "process/session.h"
#include "process/terminal.h"

/* `count` bytes left the head of the queue. */
static void credit(struct process *process, size_t count) {
  struct process_input *input = &process->input;
  size_t old = count < input->uncredited ? count : input->uncredited;
  input->uncredited -= old;
  if (process->attached != NULL) stream_credit(process->attached, count - old);
}

void process_input_close(struct process *process) {
  struct process_input *input = &process->input;
  credit(process, queue_clear(&input->queue));
  if (input->open) loop_remove(process->table->loop, &input->source);
  input->open = false;
}

static void flush(struct process *process) {
  struct process_input *input = &process->input;
  if (!input->open || !input->writable) return;
  size_t written = 0;
  int error = queue_write(&input->queue, input->source.fd, &written);
  credit(process, written);
  if (error == EAGAIN) {
    input->writable = false;
  } else if (error != 0 || input->close_when_empty) {
    process_input_close(process);
  }
}

static void input_notice(struct event_source *source, uint32_t events) {
  struct process_input *input = (struct process_input *)((char *)source - offsetof(struct process_input, source));
  (void)events;
  input->writable = true;
  flush((struct process *)((char *)input - offsetof(struct process, input)));
}

bool process_input_open(struct process *process, int fd) {
  struct process_input *input = &process->input;
  input->open = loop_add(process->table->loop, &input->source, fd, input_notice);
  input->writable = true;
  if (!input->open) close(fd);
  return input->open;
}

void process_input_take(struct process *process, struct slice bytes) {
  struct process_input *input = &process->input;
  if (!input->open || input->close_when_empty) {
    stream_credit(process->attached, bytes.length);
    return;
  }
  bool fits = input->queue.length + bytes.length <= MAX_WAITING_INPUT;
  if (!fits || !queue_push(&input->queue, bytes.bytes, bytes.length)) {
    stream_fail(process->attached, STATUS_RESOURCE_EXHAUSTED, "too much input waits for process %d", process->pid);
    return;
  }
  flush(process);
}

void process_input_end(struct process *process) {
  if (process->terminal) return;
  process->input.close_when_empty = true;
  flush(process);
}

void process_resize(struct process *process, struct slice fields) {
  struct slice columns, rows;
  if (!process->terminal || !process->outputs[0].open) return;
  if (!fields_find(fields, TAG_COLUMNS, &columns) || columns.length != 8) return;
  if (!fields_find(fields, TAG_ROWS, &rows) || rows.length != 8) return;
  terminal_resize(process->outputs[0].source.fd, get_u64(columns.bytes), get_u64(rows.bytes));
  if (terminal_tells_size() || process->state != PROCESS_RUNNING) return;
  /* All of the session and not the jobs in the foreground alone, which gVisor does not name; others ignore it. */
  kill(process->pid, SIGWINCH);
  session_end(process->pid, true, SIGWINCH);
}
