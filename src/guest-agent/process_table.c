/* The table of processes: who is in it, who has exited, who is to be forgotten. */
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
#include "process_output.h"

static void forget(struct process *process) {
  struct process_table *table = &process->agent->processes;
  for (unsigned i = 0; i < process->output_count; i++) {
    if (process->outputs[i].open) process_output_close(&process->outputs[i]);
  }
  process_input_close(process);
  process_stop_discarding(process);
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

static void forget_oldest_ended(struct process_table *table) {
  struct process *process;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->state != PROCESS_ENDED || process->attached != NULL) continue;
    forget(process);
    return;
  }
}

void process_table_ended(struct process *process) {
  struct process_table *table = &process->agent->processes;
  process->ended_ms = now_ms();
  if (table->next_expiry_ms > process->ended_ms + REMEMBER_MS) table->next_expiry_ms = process->ended_ms + REMEMBER_MS;
  table->live--;
  table->ended++;
  if (table->ended > MAX_ENDED) forget_oldest_ended(table);
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
  process_end_if_drained(process);
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
    output->open = good && loop_add(loop, &output->source, pipes->outputs[i], process_output_notice);
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
