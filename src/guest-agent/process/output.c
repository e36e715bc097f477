/* The output of a process goes to its stream, or nowhere, until the process has ended. */
#include "process/output.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/input.h"
#include "process/table.h"

enum {
  DISCARD_BYTES = 65536,
  /* The bytes that may be in a pipe when its process has been killed. */
  LAST_BYTES = 65536,
};

/* There is output to read: by the stream of the process, or to be thrown away. */
static void stir(struct process *process) {
  if (process->attached != NULL) {
    stream_wake(process->attached);
  } else if (!process->discarding) {
    process->discarding = true;
    TAILQ_INSERT_TAIL(&process->table->discarding, process, discard_links);
  }
}

void process_output_notice(struct event_source *source, uint32_t events) {
  struct process_output *output = (struct process_output *)((char *)source - offsetof(struct process_output, source));
  (void)events;
  output->readable = true;
  stir(output->process);
}

/* Reads at most `size` bytes. 0: there is nothing at present, or never again (the output is closed then). */
static size_t read_output(struct process_output *output, uint8_t *out, size_t size) {
  const struct process *process = output->process;
  if (output->quota >= 0 && (uint64_t)output->quota < size) size = (size_t)output->quota;
  ssize_t count;
  do {
    count = size == 0 ? 0 : read(output->source.fd, out, size);
  } while (count < 0 && errno == EINTR);
  if (count > 0) {
    if (output->quota >= 0) output->quota -= count;
    return (size_t)count;
  }
  bool empty_for_now = count < 0 && errno == EAGAIN;
  if (empty_for_now) output->readable = false;
  if (!empty_for_now || (output->quota >= 0 && process->state != PROCESS_RUNNING)) process_close_output(output);
  return 0;
}

/* Sends one frame of output if there is any and the window is open. */
static bool send_output(struct process *process, struct stream *stream) {
  for (unsigned i = 0; i < process->output_count; i++) {
    struct process_output *output = &process->outputs[process->next_output];
    process->next_output = (process->next_output + 1) % process->output_count;
    size_t room;
    uint8_t *at = stream_data_room(stream, &room);
    if (room == 0) return false;
    if (!output->open || !output->readable) continue;
    if (process->terminal && room > MAX_TERMINAL_DATA) room = MAX_TERMINAL_DATA;
    size_t count = read_output(output, at, room);
    if (count == 0) continue;
    stream_send_data(stream, output->channel, count);
    return true;
  }
  return false;
}

static void send_end(struct process *process, struct stream *stream) {
  struct writer *scratch = &stream->table->scratch;
  writer_start(scratch, 0);
  put_int(scratch, TAG_PID, (uint64_t)process->pid);
  process_put_end(process, scratch);
  stream_finish_with_scratch(stream, STATUS_OK);
}

static enum turn serve(struct stream *stream) {
  struct process *process = stream->job;
  if (!process->announced) {
    writer_start(&stream->table->scratch, EVENT_STARTED);
    put_int(&stream->table->scratch, TAG_PID, (uint64_t)process->pid);
    stream_send_event(stream);
    process->announced = true;
    return TURN_WORKED;
  }
  if (send_output(process, stream)) return TURN_WORKED;
  process_end_if_drained(process);
  if (process->state == PROCESS_ENDED) send_end(process, stream);
  return TURN_IDLE;
}

static void release(struct stream *stream) {
  struct process *process = stream->job;
  if (process->attached != stream) return;
  process->attached = NULL;
  process->input.uncredited = process->input.queue.length;
  if (process->state != PROCESS_ENDED) stir(process);
}

static void take_data(struct stream *stream, struct slice bytes) { process_input_take(stream->job, bytes); }
static void take_end(struct stream *stream) { process_input_end(stream->job); }

static void take_control(struct stream *stream, uint16_t kind, struct slice fields) {
  if (kind == CONTROL_RESIZE) process_resize(stream->job, fields);
}

static const struct stream_work process_work = {
    .serve = serve, .data = take_data, .end = take_end, .control = take_control, .release = release};

void process_attach(struct process *process, struct stream *stream) {
  if (process->attached != NULL) {
    stream_fail(process->attached, STATUS_CANCELLED, "another stream was attached to process %d", process->pid);
  }
  process_stop_discarding(process);
  process->input.uncredited = process->input.queue.length;
  process->attached = stream;
  process->announced = false;
  stream_begin(stream, &process_work, process);
}

void process_stop_waiting(struct process *process) {
  process->stop_waiting = true;
  if (process->state != PROCESS_EXITED) return;
  for (unsigned i = 0; i < process->output_count; i++) {
    struct process_output *output = &process->outputs[i];
    if (!output->open) continue;
    if (output->quota < 0) output->quota = LAST_BYTES;
    output->readable = true;
  }
  stir(process);
}

void process_put_end(const struct process *process, struct writer *writer) {
  if (process->state == PROCESS_RUNNING) return;
  bool exited = WIFEXITED(process->wait_status);
  put_signed(writer, TAG_EXIT_CODE, exited ? WEXITSTATUS(process->wait_status) : -1);
  put_bool(writer, TAG_EXITED, exited);
  if (!exited) put_int(writer, TAG_SIGNAL, (uint64_t)WTERMSIG(process->wait_status));
}

/* One read of each output of a process without a stream. */
static void discard_some(struct process *process) {
  static uint8_t sink[DISCARD_BYTES];
  bool more = false;
  for (unsigned i = 0; i < process->output_count; i++) {
    struct process_output *output = &process->outputs[i];
    if (output->open && output->readable) read_output(output, sink, sizeof sink);
    more = more || (output->open && output->readable);
  }
  if (!more) process_stop_discarding(process);
  process_end_if_drained(process);
}

bool processes_discard(struct process_table *table) {
  struct process *process, *next;
  for (process = TAILQ_FIRST(&table->discarding); process != NULL; process = next) {
    next = TAILQ_NEXT(process, discard_links);
    discard_some(process);
  }
  return !TAILQ_EMPTY(&table->discarding);
}
