/*
 * The keeper: keeps one program of the root disk running as root, such as the service of a template. It is started when
 * the agent is, thus at every boot, and again whenever it has ended.
 */
#ifndef FIRKIN_KEEPER_H
#define FIRKIN_KEEPER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct keeper {
  /* NULL: there is nothing to keep. */
  const char *program;
  /* The file that the program reads the sandbox's environment from. */
  const char *environment_file;
  bool dies_with_agent;
  /* 0: the program does not run. */
  pid_t pid;
  /* The next start while it does not run. */
  int64_t due_ms;
};

/* Keeps `program` from now on. There is nothing to keep when the disk has no such program. */
void keeper_start(struct keeper *keeper, const char *program, const char *environment_file, bool dies_with_agent);

/* Starts the program when it is due; returns when to look again (INT64_MAX: never). */
int64_t keeper_tick(struct keeper *keeper, int64_t now);

/* True when the child was the kept program. */
bool keeper_reaped(struct keeper *keeper, pid_t pid);

#endif
