/* The life of a process: running, exited, ended, forgotten. Reading and sending of its output is here, input in process_input.c. */
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "helpers.h"
#include "process_input.h"

enum {
  DISCARD_BYTES = 65536,
  /* What may be in a pipe when its process has been killed. */
  LAST_BYTES = 65536,
};

static void forget(struct process *process);

/* Its output can be read on: by its stream, or to be thrown away. */
static void stir(struct process *process) {
  if (process->attached != NULL) {
    stream_wake(process->attached);
  } else if (!process->discarding) {
    process->discarding = true;
    TAILQ_INSERT_TAIL(&process->agent->processes.discarding, process, discard_links);
  }
}

static void stop_discarding(struct process *process) {
  if (process->discarding) TAILQ_REMOVE(&process->agent->processes.discarding, process, discard_links);
  process->discarding = false;
}

static bool has_open_output(const struct process *process) {
  for (unsigned i = 0; i < process->output_count; i++) {
    if (process->outputs[i].open) return true;
  }
  return false;
}

static void forget_oldest_ended(struct process_table *table) {
  struct process *process;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->state != PROCESS_ENDED || process->attached != NULL) continue;
    forget(process);
    return;
  }
}

static void end_if_drained(struct process *process) {
  struct process_table *table = &process->agent->processes;
  if (process->state != PROCESS_EXITED || has_open_output(process)) return;
  process->state = PROCESS_ENDED;
  process->ended_ms = now_ms();
  if (table->next_expiry_ms > process->ended_ms + REMEMBER_MS) table->next_expiry_ms = process->ended_ms + REMEMBER_MS;
  process_input_close(process);
  stop_discarding(process);
  table->live--;
  table->ended++;
  if (process->attached != NULL) stream_wake(process->attached);
  if (table->ended > MAX_ENDED) forget_oldest_ended(table);
}

static void close_output(struct process_output *output) {
  loop_remove(&output->process->agent->loop, &output->source);
  output->open = false;
  output->readable = false;
}

static void output_notice(struct source *source, uint32_t events) {
  struct process_output *output = (struct process_output *)((char *)source - offsetof(struct process_output, source));
  (void)events;
  output->readable = true;
  stir(output->process);
}

/* Reads what is there, up to `size`. 0: nothing now, or never again (the output is closed then). */
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
  if (!empty_for_now || (output->quota >= 0 && process->state != PROCESS_RUNNING)) close_output(output);
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
  struct writer *scratch = &process->agent->scratch;
  writer_start(scratch, 0);
  put_int(scratch, TAG_PID, (uint64_t)process->pid);
  process_put_end(process, scratch);
  stream_finish_with_scratch(stream, STATUS_OK);
}

static enum turn serve(struct stream *stream) {
  struct process *process = stream->job;
  if (!process->announced) {
    writer_start(&stream->agent->scratch, EVENT_STARTED);
    put_int(&stream->agent->scratch, TAG_PID, (uint64_t)process->pid);
    stream_send_event(stream);
    process->announced = true;
    return TURN_WORKED;
  }
  if (send_output(process, stream)) return TURN_WORKED;
  end_if_drained(process);
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
  stop_discarding(process);
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

/* One read of each output of a process that nobody is attached to. */
static void discard_some(struct process *process) {
  static uint8_t sink[DISCARD_BYTES];
  bool more = false;
  for (unsigned i = 0; i < process->output_count; i++) {
    struct process_output *output = &process->outputs[i];
    if (output->open && output->readable) read_output(output, sink, sizeof sink);
    more = more || (output->open && output->readable);
  }
  if (!more) stop_discarding(process);
  end_if_drained(process);
}

bool processes_discard(struct agent *agent) {
  struct process_table *table = &agent->processes;
  struct process *process, *next;
  for (process = TAILQ_FIRST(&table->discarding); process != NULL; process = next) {
    next = TAILQ_NEXT(process, discard_links);
    discard_some(process);
  }
  return !TAILQ_EMPTY(&table->discarding);
}

static void reap(struct agent *agent, pid_t pid, int wait_status) {
  struct process *process;
  TAILQ_FOREACH(process, &agent->processes.processes, links) {
    if (process->pid == pid && process->state == PROCESS_RUNNING) break;
  }
  if (process == NULL) {
    helper_reaped(agent, pid, wait_status);
    return;
  }
  process->state = PROCESS_EXITED;
  process->wait_status = wait_status;
  if (process->stop_waiting) process_stop_waiting(process);
  end_if_drained(process);
}

static void child_notice(struct source *source, uint32_t events) {
  struct process_table *table = (struct process_table *)((char *)source - offsetof(struct process_table, child_signals));
  struct agent *agent = (struct agent *)((char *)table - offsetof(struct agent, processes));
  struct signalfd_siginfo info[8];
  (void)events;
  while (read(source->fd, info, sizeof info) > 0) {}
  int wait_status;
  pid_t pid;
  while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) reap(agent, pid, wait_status);
}

bool processes_start(struct agent *agent) {
  struct process_table *table = &agent->processes;
  TAILQ_INIT(&table->processes);
  TAILQ_INIT(&table->discarding);
  table->next_expiry_ms = INT64_MAX;
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  int fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  return fd >= 0 && loop_add(&agent->loop, &table->child_signals, fd, child_notice);
}

static void forget(struct process *process) {
  struct process_table *table = &process->agent->processes;
  for (unsigned i = 0; i < process->output_count; i++) {
    if (process->outputs[i].open) close_output(&process->outputs[i]);
  }
  process_input_close(process);
  stop_discarding(process);
  if (process->state == PROCESS_ENDED) {
    table->ended--;
  } else {
    table->live--;
  }
  TAILQ_REMOVE(&table->processes, process, links);
  free(process->description);
  free(process->tag);
  free(process);
}

void processes_stop(struct agent *agent) {
  while (!TAILQ_EMPTY(&agent->processes.processes)) forget(TAILQ_FIRST(&agent->processes.processes));
  loop_remove(&agent->loop, &agent->processes.child_signals);
}

static bool add_pipes(struct process *process, const struct process_pipes *pipes) {
  struct loop *loop = &process->agent->loop;
  bool good = true;
  if (pipes->input >= 0) good = process_input_open(process, pipes->input);
  for (unsigned i = 0; i < 2 && pipes->outputs[i] >= 0; i++) {
    struct process_output *output = &process->outputs[process->output_count];
    output->process = process;
    output->channel = process->terminal ? CHANNEL_TERMINAL : (uint8_t)(CHANNEL_STDOUT + i);
    output->quota = -1;
    output->open = good && loop_add(loop, &output->source, pipes->outputs[i], output_notice);
    if (!output->open) close(pipes->outputs[i]);
    good = output->open;
    process->output_count++;
  }
  return good;
}

struct process *process_add(struct agent *agent, pid_t pid, bool terminal, const struct process_pipes *pipes) {
  struct process_table *table = &agent->processes;
  struct process *process = calloc(1, sizeof *process);
  if (process == NULL) {
    kill(pid, SIGKILL);
    if (pipes->input >= 0) close(pipes->input);
    for (unsigned i = 0; i < 2; i++) {
      if (pipes->outputs[i] >= 0) close(pipes->outputs[i]);
    }
    return NULL;
  }
  process->agent = agent;
  process->pid = pid;
  process->terminal = terminal;
  process->serial = ++table->last_serial;
  TAILQ_INSERT_TAIL(&table->processes, process, links);
  table->live++;
  if (add_pipes(process, pipes)) return process;
  kill(pid, SIGKILL);
  forget(process);
  return NULL;
}

static bool is_better(const struct process *candidate, const struct process *best) {
  return best == NULL || candidate->state == PROCESS_RUNNING || best->state != PROCESS_RUNNING;
}

struct process *process_by_pid(struct agent *agent, pid_t pid) {
  struct process *process, *best = NULL;
  TAILQ_FOREACH(process, &agent->processes.processes, links) {
    if (process->pid == pid && is_better(process, best)) best = process;
  }
  return best;
}

struct process *process_by_tag(struct agent *agent, const char *tag) {
  struct process *process, *best = NULL;
  TAILQ_FOREACH(process, &agent->processes.processes, links) {
    if (process->tag != NULL && strcmp(process->tag, tag) == 0 && is_better(process, best)) best = process;
  }
  return best;
}

int64_t processes_expire(struct agent *agent, int64_t now) {
  struct process_table *table = &agent->processes;
  if (now < table->next_expiry_ms) return table->next_expiry_ms;
  table->next_expiry_ms = INT64_MAX;
  struct process *process, *next;
  for (process = TAILQ_FIRST(&table->processes); process != NULL; process = next) {
    next = TAILQ_NEXT(process, links);
    if (process->state != PROCESS_ENDED) continue;
    int64_t due = process->ended_ms + REMEMBER_MS;
    if (due <= now && process->attached != NULL) due = now + REMEMBER_MS;
    if (due <= now) {
      forget(process);
    } else if (due < table->next_expiry_ms) {
      table->next_expiry_ms = due;
    }
  }
  return table->next_expiry_ms;
}
