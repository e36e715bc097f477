/* The keeper. A program that ends at once is started once a second. */
#include "process/keeper.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop.h"
#include "process/spawn.h"

enum { RETRY_MS = 1000, LOG_BYTES = 1 << 18 };

/* The program's output; it begins anew when it has become long. */
static const char log_path[] = "/run/firkin/service.log";

void keeper_start(struct keeper *keeper, const char *program, const char *environment_file, bool dies_with_agent) {
  *keeper = (struct keeper){0};
  if (access(program, X_OK) != 0) return;
  *keeper =
      (struct keeper){.program = program, .environment_file = environment_file, .dies_with_agent = dies_with_agent};
}

/* Opens what becomes 0, 1 and 2, each above 2. */
static int open_input(void) {
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  int above = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (fd >= 0) close(fd);
  return above;
}

static int open_log(bool is_test) {
  struct stat info;
  if (is_test) return open_input();
  mkdir("/run/firkin", 0755);
  int truncate = stat(log_path, &info) == 0 && info.st_size > LOG_BYTES ? O_TRUNC : 0;
  int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | truncate, 0600);
  if (fd < 0) fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  int above = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (fd >= 0) close(fd);
  return above;
}

static pid_t start(const struct keeper *keeper) {
  static char *const environment[] = {
      "HOME=/root",
      "USER=root",
      "LOGNAME=root",
      "LANG=C.UTF-8",
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      NULL,
  };
  char *const words[] = {(char *)keeper->program, NULL};
  int input = open_input(), log = open_log(keeper->dies_with_agent);
  struct spawn plan = {
      .programs = words,
      .arguments = words,
      .environment = environment,
      .cwd = "/",
      .stdio = {input, log, log},
      .uid = geteuid(),
      .gid = getegid(),
      .dies_with_agent = keeper->dies_with_agent,
  };
  struct spawn_failure failure;
  pid_t pid = input < 0 || log < 0 ? -1 : spawn(&plan, &failure);
  if (input >= 0) close(input);
  if (log >= 0) close(log);
  return pid;
}

int64_t keeper_tick(struct keeper *keeper, int64_t now) {
  if (keeper->program == NULL || keeper->pid != 0) return INT64_MAX;
  if (now < keeper->due_ms) return keeper->due_ms;
  keeper->due_ms = now + RETRY_MS;
  pid_t pid = start(keeper);
  if (pid < 0) return keeper->due_ms;
  keeper->pid = pid;
  return INT64_MAX;
}

bool keeper_reaped(struct keeper *keeper, pid_t pid) {
  if (keeper->pid == 0 || keeper->pid != pid) return false;
  keeper->pid = 0;
  return true;
}
