/* The children of the agent. SIGCHLD comes through a signalfd, so that children are reaped in the event loop. */
#include "process/children.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/small_file.h"
#include "process/helpers.h"
#include "process/input.h"
#include "process/output.h"
#include "process/table.h"

static void reap(struct process_table *table, pid_t pid, int wait_status) {
  struct process *process;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->pid == pid && process->state == PROCESS_RUNNING) break;
  }
  if (process == NULL) {
    if (!keeper_reaped(&table->keeper, pid)) helper_reaped(&table->helpers, pid, wait_status);
    return;
  }
  process->state = PROCESS_EXITED;
  process->wait_status = wait_status;
  if (process->stop_waiting) process_stop_waiting(process);
  process_end_if_drained(process);
}

static void child_notice(struct event_source *source, uint32_t events) {
  struct process_table *table =
      (struct process_table *)((char *)source - offsetof(struct process_table, child_signals));
  struct signalfd_siginfo info[8];
  (void)events;
  while (read(source->fd, info, sizeof info) > 0) {}
  int wait_status;
  pid_t pid;
  while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) reap(table, pid, wait_status);
}

bool processes_start(struct process_table *table, struct loop *loop, struct accounts *accounts, bool die_with_agent) {
  table->loop = loop;
  table->accounts = accounts;
  table->die_with_agent = die_with_agent;
  TAILQ_INIT(&table->processes);
  TAILQ_INIT(&table->discarding);
  table->next_expiry_ms = INT64_MAX;
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  int fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  return fd >= 0 && loop_add(loop, &table->child_signals, fd, child_notice);
}

void processes_stop(struct process_table *table) {
  while (!TAILQ_EMPTY(&table->processes)) process_forget(TAILQ_FIRST(&table->processes));
  loop_remove(table->loop, &table->child_signals);
}

void children_kill(void) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
  while (waitpid(-1, NULL, WNOHANG) >= 0) {
    if (get_file(path, text, sizeof text) < 0) return;
    char *at = text;
    for (long pid; (pid = strtol(at, &at, 10)) > 0;) kill((pid_t)pid, SIGKILL);
    usleep(1000);
  }
}

static bool add_pipes(struct process *process, const struct process_pipes *pipes) {
  struct loop *loop = process->table->loop;
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

struct process *process_add(struct process_table *table, pid_t pid, bool terminal, const struct process_pipes *pipes) {
  struct process *process = calloc(1, sizeof *process);
  if (process == NULL) {
    kill(pid, SIGKILL);
    if (pipes->input >= 0) close(pipes->input);
    for (unsigned i = 0; i < 2; i++) {
      if (pipes->outputs[i] >= 0) close(pipes->outputs[i]);
    }
    return NULL;
  }
  process->table = table;
  process->pid = pid;
  process->terminal = terminal;
  process->serial = ++table->last_serial;
  TAILQ_INSERT_TAIL(&table->processes, process, links);
  table->live++;
  if (add_pipes(process, pipes)) return process;
  kill(pid, SIGKILL);
  process_forget(process);
  return NULL;
}
