/* SHUTDOWN ends a VM with power off. An agent that is an ordinary process exits. */
#include "machine/shutdown.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEFAULT_DEADLINE_MS = 5000, MAX_DEADLINE_MS = 600000, KILL_MS = 2000, ANSWER_MS = 1000, CHECK_MS = 10 };

/* Signals every process but this one in a VM, and otherwise the processes that were started for the host. */
static void signal_all(const struct machine *machine, int number) {
  if (machine->options.is_init) {
    kill(-1, number);
    return;
  }
  const struct process *process;
  TAILQ_FOREACH(process, &machine->processes->processes, links) {
    if (process->state == PROCESS_RUNNING) kill(-process->pid, number);
  }
}

/* Every process of a VM becomes a child of its init in the end, so without children there is no process left. */
static bool has_children(void) {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD;
}

static void release(struct stream *stream) {
  struct machine *machine = stream->room;
  machine->shutdown.stream = NULL;
}

static const struct stream_work waiting = {.release = release};

void open_shutdown(struct request *request) {
  struct machine *machine = request->stream->room;
  uint64_t deadline = request_int(request, TAG_DEADLINE_MS, DEFAULT_DEADLINE_MS);
  if (request_refused(request)) return;
  if (deadline > MAX_DEADLINE_MS) deadline = MAX_DEADLINE_MS;
  machine->shutdown = (struct shutdown){.under_way = true,
                                        .phase = SHUTDOWN_TERMINATING,
                                        .deadline_ms = now_ms() + (int64_t)deadline,
                                        .stream = request->stream};
  stream_begin(request->stream, &waiting, NULL);
  signal_all(machine, SIGTERM);
}

static void enter(struct shutdown *shutdown, enum shutdown_phase phase, int64_t deadline_ms) {
  shutdown->phase = phase;
  shutdown->deadline_ms = deadline_ms;
}

static void power_off(void) {
  mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
  sync();
  reboot(RB_POWER_OFF);
}

static void answer(struct machine *machine, int64_t now) {
  if (machine->options.is_init) sync();
  enter(&machine->shutdown, SHUTDOWN_ANSWERING, now + ANSWER_MS);
  if (machine->shutdown.stream != NULL) stream_finish(machine->shutdown.stream, STATUS_OK);
}

int64_t shutdown_tick(struct machine *machine, int64_t now) {
  struct shutdown *shutdown = &machine->shutdown;
  bool over = now >= shutdown->deadline_ms;
  switch (shutdown->phase) {
    case SHUTDOWN_NOT: return INT64_MAX;
    case SHUTDOWN_TERMINATING:
      if (!has_children()) {
        answer(machine, now);
      } else if (over) {
        signal_all(machine, SIGKILL);
        enter(shutdown, SHUTDOWN_KILLING, now + KILL_MS);
      }
      break;
    case SHUTDOWN_KILLING:
      if (over || !has_children()) answer(machine, now);
      break;
    case SHUTDOWN_ANSWERING: {
      bool answered = guest_link_is_drained(machine->link);
      if (!over && !answered) break;
      if (machine->options.is_init && !machine->options.is_gvisor) power_off();
      shutdown->over = true;
      return INT64_MAX;
    }
  }
  return now + CHECK_MS;
}
