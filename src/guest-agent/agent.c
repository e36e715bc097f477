/* One round of everything, and what comes before the first and after the last. */
#include "agent.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dispatch.h"
#include "put_file.h"
#include "spawn.h"

/* Signals are read, not handled: only the end of children matters. */
static void block_signals(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  signal(SIGPIPE, SIG_IGN);
}

bool agent_start(struct agent *agent, struct options options) {
  agent->options = options;
  agent->scratch = (struct writer){.bytes = agent->scratch_bytes, .capacity = sizeof agent->scratch_bytes};
  umask(022);
  block_signals();
  spawn_limits_start(options.is_init);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  accounts_start(&agent->accounts);
  settings_start(&agent->settings);
  streams_start(&agent->streams);
  if (!loop_open(&agent->loop) || !processes_start(agent)) {
    perror("firkin-agent: cannot start");
    return false;
  }
  link_start(&agent->link, agent);
  return true;
}

static bool input_can_go_on(const struct agent *agent) {
  return agent->link.paused && dispatch_has_room(agent);
}

/* How long the loop may sleep. */
static int wait_time(int64_t due, int64_t now, int max_wait_ms) {
  if (due == INT64_MAX) return max_wait_ms;
  int64_t wait = due <= now ? 0 : due - now;
  if (max_wait_ms >= 0 && wait > max_wait_ms) return max_wait_ms;
  return wait > INT_MAX ? INT_MAX : (int)wait;
}

static int64_t tick(struct agent *agent, int64_t now) {
  int64_t due = source_tick(agent, now);
  int64_t next = processes_expire(agent, now);
  if (next < due) due = next;
  next = shutdown_tick(agent, now);
  return next < due ? next : due;
}

void agent_send(struct agent *agent) {
  streams_serve(agent);
  link_send(&agent->link);
}

void agent_turn(struct agent *agent, int max_wait_ms) {
  int64_t now = now_ms();
  int64_t due = tick(agent, now);
  bool busy = agent->has_more || link_is_busy(&agent->link) || input_can_go_on(agent) || agent->should_exit;
  loop_wait(&agent->loop, busy ? 0 : wait_time(due, now, max_wait_ms));
  streams_release(agent);
  link_receive(&agent->link);
  bool discarding = processes_discard(agent);
  streams_release(agent);
  agent_send(agent);
  agent->has_more = discarding || streams_could_go_on(agent);
}

/* Kills whatever descends from this process: as a subreaper it gets all of them in the end. */
static void kill_children(void) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
  while (waitpid(-1, NULL, WNOHANG) >= 0) {
    if (get_file(path, text, sizeof text) < 0) return;
    char *at = text;
    for (long pid; (pid = strtol(at, &at, 10)) > 0;) kill((pid_t)pid, SIGKILL);
    usleep(1000);
  }
}

void agent_stop(struct agent *agent) {
  link_detach(&agent->link);
  kill_children();
  processes_stop(agent);
  loop_remove(&agent->loop, &agent->link_source.listener);
  accounts_stop(&agent->accounts);
  settings_stop(&agent->settings);
  loop_close(&agent->loop);
}
