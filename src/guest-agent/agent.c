/* The rounds of the agent, its start and its end. */
#include "agent.h"

#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "machine/shutdown.h"
#include "operations.h"
#include "process/children.h"
#include "process/keeper.h"
#include "process/output.h"
#include "process/spawn.h"
#include "process/table.h"

/* Blocks all signals. The agent needs only the ends of children, and reads those from a descriptor. */
static void block_signals(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  signal(SIGPIPE, SIG_IGN);
}

bool agent_start(struct agent *agent, struct options options) {
  umask(022);
  block_signals();
  spawn_limits_start(options.is_init);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  book_start(&agent->accounts.book);
  settings_start(&agent->accounts.settings);
  if (!loop_open(&agent->loop) ||
      !processes_start(&agent->processes, &agent->loop, &agent->accounts, !options.is_init)) {
    perror("firkin-agent: cannot start");
    return false;
  }
  const char *kept = options.keep != NULL ? options.keep : options.is_init ? "/opt/firkin/service" : NULL;
  if (kept != NULL) {
    keeper_start(&agent->processes.keeper, kept, "/run/e2b/environment", !options.is_init);
  }
  agent->files = (struct file_room){.loop = &agent->loop, .accounts = &agent->accounts};
  agent->machine = (struct machine){.options = options,
                                    .loop = &agent->loop,
                                    .link = &agent->link,
                                    .accounts = &agent->accounts,
                                    .processes = &agent->processes};
  operations_start(&agent->operations, &agent->files, &agent->machine);
  guest_link_start(&agent->link, &agent->loop, &agent->operations);
  return true;
}

bool agent_is_over(const struct agent *agent) { return agent->link.source.over || agent->machine.shutdown.over; }

/* The time that the loop may sleep. */
static int wait_time(int64_t due, int64_t now, int max_wait_ms) {
  if (due == INT64_MAX) return max_wait_ms;
  int64_t wait = due <= now ? 0 : due - now;
  if (max_wait_ms >= 0 && wait > max_wait_ms) return max_wait_ms;
  return wait > INT_MAX ? INT_MAX : (int)wait;
}

static int64_t tick(struct agent *agent, int64_t now) {
  int64_t due = source_tick(&agent->link.source, now);
  int64_t next = processes_expire(&agent->processes, now);
  if (next < due) due = next;
  next = shutdown_tick(&agent->machine, now);
  if (next < due) due = next;
  if (agent->machine.shutdown.under_way) return due;
  next = keeper_tick(&agent->processes.keeper, now);
  return next < due ? next : due;
}

void agent_turn(struct agent *agent, int max_wait_ms) {
  struct stream_table *streams = &agent->link.streams;
  int64_t now = now_ms();
  int64_t due = tick(agent, now);
  bool busy = agent->has_more || guest_link_is_busy(&agent->link) || agent_is_over(agent);
  loop_wait(&agent->loop, busy ? 0 : wait_time(due, now, max_wait_ms));
  streams_release(streams);
  source_receive(&agent->link.source);
  bool discarding = processes_discard(&agent->processes);
  streams_release(streams);
  guest_link_send(&agent->link);
  agent->has_more = discarding || streams_could_go_on(streams);
}

void agent_stop(struct agent *agent) {
  guest_link_stop(&agent->link);
  children_kill();
  processes_stop(&agent->processes);
  book_stop(&agent->accounts.book);
  settings_stop(&agent->accounts.settings);
  loop_close(&agent->loop);
}
