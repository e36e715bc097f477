/*
 * The session of a command, found by a look through /proc. The kernel gives the number of a session to no new process
 * while a process of the session is left, so a session can be told by the number of its first process.
 */
#include "process/session.h"

#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/small_file.h"

/* SIGKILL is sent until a look finds nobody new, because a process may have started another one meanwhile. */
enum { MAX_LOOKS = 16, STAT_BYTES = 512 };

/* The session of a process, or -1 when the process is gone or has ended. */
static pid_t session_of(const char *pid) {
  char path[32], text[STAT_BYTES], state;
  int session;
  snprintf(path, sizeof path, "/proc/%.10s/stat", pid);
  if (get_file(path, text, sizeof text) < 0) return -1;
  /* The name stands in brackets and may hold any character. */
  const char *rest = strrchr(text, ')');
  if (rest == NULL || sscanf(rest + 1, " %c %*d %*d %d", &state, &session) != 2) return -1;
  return state == 'Z' || state == 'X' ? -1 : session;
}

/* Signals the members besides the leader; returns their number. */
static unsigned signal_members(pid_t leader, int number) {
  DIR *dir = opendir("/proc");
  const struct dirent *entry;
  unsigned count = 0;
  while (dir != NULL && (entry = readdir(dir)) != NULL) {
    if (!isdigit((unsigned char)entry->d_name[0])) continue;
    pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
    if (pid == leader || session_of(entry->d_name) != leader) continue;
    if (kill(pid, number) == 0) count++;
  }
  if (dir != NULL) closedir(dir);
  return count;
}

void session_end(pid_t leader, bool leader_is_there, int number) {
  /* Another process with the number of a reaped leader shows that nobody is left of the session. */
  if (!leader_is_there && kill(leader, 0) == 0) return;
  int looks = number == SIGKILL ? MAX_LOOKS : 1;
  while (signal_members(leader, number) > 0 && --looks > 0) {}
}
