/*
 * The number of processors that a guest sees. gVisor shows as many as its own process may use when it starts;
 * afterwards it may use all of the host's, so that machines do not crowd on the first ones.
 */
#ifndef FIRKIN_KEEPER_PROCESSORS_H
#define FIRKIN_KEEPER_PROCESSORS_H

#include <dirent.h>
#include <sched.h>

#include "keeper.h"

/* Threads that are started meanwhile have what the thread that starts them has. */
enum { ROUNDS = 2 };

/* Leaves this process no more than `count` of its processors. */
static void show_processors(int count) {
  cpu_set_t all, some;
  CPU_ZERO(&some);
  if (count < 1 || sched_getaffinity(0, sizeof all, &all)) return;
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&some) < count; cpu++) {
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &some);
  }
  sched_setaffinity(0, sizeof some, &some);
}

/* Gives all threads of the process the processors that the keeper has. */
static void give_all_processors(pid_t pid) {
  cpu_set_t all;
  char path[64];
  if (sched_getaffinity(0, sizeof all, &all)) return;
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  for (int round = 0; round < ROUNDS; round++) {
    DIR *threads = opendir(path);
    if (!threads) return;
    for (const struct dirent *entry; (entry = readdir(threads));) {
      if (entry->d_name[0] != '.') sched_setaffinity(atoi(entry->d_name), sizeof all, &all);
    }
    closedir(threads);
  }
}

#endif
