/* Spawning: starting a program with its descriptors, identity, limits and folder set. */
#ifndef FIRKIN_SPAWN_H
#define FIRKIN_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct spawn {
  /* Paths to try in order, NULL at the end. */
  char *const *programs;
  char *const *arguments;
  char *const *environment;
  const char *cwd;
  /* The descriptors that become 0, 1 and 2. Each is above 2. */
  int stdio[3];
  /* stdio[0] becomes the controlling terminal. */
  bool terminal;
  uid_t uid;
  gid_t gid;
  const gid_t *groups;
  size_t group_count;
  /* The program is killed when the agent dies, because the agent is an ordinary process. */
  bool dies_with_agent;
};

/* The step at which a start failed. */
enum spawn_step { SPAWN_FORK, SPAWN_SESSION, SPAWN_IDENTITY, SPAWN_CWD, SPAWN_PROGRAM };

struct spawn_failure {
  enum spawn_step step;
  int error;
};

/* Returns the pid once the program runs; or -1, with `failure` set. */
pid_t spawn(const struct spawn *plan, struct spawn_failure *failure);

/* Remembers the limits and processors that programs are started with, and sets the agent's own. */
void spawn_limits_start(bool is_init);

#endif
