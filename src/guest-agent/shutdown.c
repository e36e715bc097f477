/* SYNC and SHUTDOWN. In a VM the end is power off; an ordinary process just exits. */
#include "shutdown.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "operations.h"

enum { DEFAULT_DEADLINE_MS = 5000, MAX_DEADLINE_MS = 600000, KILL_MS = 2000, ANSWER_MS = 1000, CHECK_MS = 10 };

void open_sync(struct request *request) { helper_sync(request->stream); }

/* In a VM every process but this one; otherwise those that were started for the host. */
static void signal_all(struct agent *agent, int number) {
  if (agent->options.is_init) {
    kill(-1, number);
    return;
  }
  const struct process *process;
  TAILQ_FOREACH(process, &agent->processes.processes, links) {
    if (process->state == PROCESS_RUNNING) kill(-process->pid, number);
  }
}

/* Every process of a VM becomes a child of its init in the end, so no child means nobody is left. */
static bool has_children(void) {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD;
}

static void release(struct stream *stream) { stream->agent->shutdown.stream = NULL; }

static const struct stream_work waiting = {.release = release};

void open_shutdown(struct request *request) {
  struct agent *agent = request->stream->agent;
  uint64_t deadline = request_int(request, TAG_DEADLINE_MS, DEFAULT_DEADLINE_MS);
  if (request_refused(request)) return;
  if (deadline > MAX_DEADLINE_MS) deadline = MAX_DEADLINE_MS;
  agent->shutdown = (struct shutdown){.under_way = true,
                                      .phase = SHUTDOWN_TERMINATING,
                                      .deadline_ms = now_ms() + (int64_t)deadline,
                                      .stream = request->stream};
  stream_begin(request->stream, &waiting, NULL);
  signal_all(agent, SIGTERM);
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

static void answer(struct agent *agent, int64_t now) {
  if (agent->options.is_init) sync();
  enter(&agent->shutdown, SHUTDOWN_ANSWERING, now + ANSWER_MS);
  if (agent->shutdown.stream != NULL) stream_finish(agent->shutdown.stream, STATUS_OK);
}

int64_t shutdown_tick(struct agent *agent, int64_t now) {
  struct shutdown *shutdown = &agent->shutdown;
  bool over = now >= shutdown->deadline_ms;
  switch (shutdown->phase) {
    case SHUTDOWN_NOT: return INT64_MAX;
    case SHUTDOWN_TERMINATING:
      if (!has_children()) {
        answer(agent, now);
      } else if (over) {
        signal_all(agent, SIGKILL);
        enter(shutdown, SHUTDOWN_KILLING, now + KILL_MS);
      }
      break;
    case SHUTDOWN_KILLING:
      if (over || !has_children()) answer(agent, now);
      break;
    case SHUTDOWN_ANSWERING: {
      bool answered = agent->streams.count == 0 && agent->link.output_length == 0;
      if (!over && !answered) break;
      if (agent->options.is_init) power_off();
      agent->should_exit = true;
      return INT64_MAX;
    }
  }
  return now + CHECK_MS;
}
