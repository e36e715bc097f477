/*
 * `visitor`: takes the place of a keeper in a box whose guest has taken it over. Prints a line for each thing that it
 * finds or tries: its name, and what came of it. `visitor stay` then waits until its standard input ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long result) { printf("%s: %s\n", name, result < 0 ? strerrorname_np(errno) : "done"); }

static long touch(const char *path, int flags) {
  int file = open(path, flags, 0644);
  if (file < 0) return -1;
  long written = write(file, "x", 1);
  close(file);
  return written;
}

static void tell_owner(const char *path) {
  struct stat found;
  if (stat(path, &found))
    printf("owner of %s: %s\n", path, strerrorname_np(errno));
  else
    printf("owner of %s: %u\n", path, found.st_uid);
}

static void tell_line(const char *name, const char *path) {
  char text[256] = {0};
  FILE *file = fopen(path, "r");
  if (file && fgets(text, sizeof text, file)) printf("%s: %s\n", name, strtok(text, "\n"));
  if (file) fclose(file);
}

int main(int count, char **arguments) {
  (void)arguments;
  char name[64] = {0};
  struct rlimit core;
  getrlimit(RLIMIT_CORE, &core);
  printf("core: %ld\n", (long)core.rlim_max);
  gethostname(name, sizeof name - 1);
  printf("host name: %s\n", name);
  tell_line("users", "/proc/self/uid_map");
  tell_line("oom", "/proc/self/oom_score_adj");
  tell("write to its disk", touch("/disk/new", O_WRONLY | O_CREAT));
  tell("change a file of the base", touch("/disk/file", O_WRONLY | O_APPEND));
  tell_owner("/disk/file");
  tell_owner("/disk/theirs");
  tell("change a file of another user", touch("/disk/theirs", O_WRONLY | O_APPEND));
  tell("change a capable file", touch("/disk/capable", O_WRONLY | O_APPEND));
  tell("open a disk of the host", open("/disk/device", O_RDONLY));
  tell("change a file of nobody's", touch("/disk/nobodys", O_WRONLY | O_APPEND));
  tell("read the checkpoint", open("/restored/checkpoint.img", O_RDONLY));
  tell("write the checkpoint", touch("/restored/checkpoint.img", O_WRONLY));
  tell("write the folder of its own checkpoints", touch("/image/checkpoint.img", O_WRONLY | O_CREAT));
  tell("read a layer", open("/layers/base/file", O_RDONLY));
  tell("read a file of the host", open("/etc/passwd", O_RDONLY));
  tell("keys", syscall(SYS_add_key, "user", "a", "b", 1, -1));
  tell("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, NULL, 0));
  tell("perf", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
  tell("userfaultfd", syscall(SYS_userfaultfd, 0));
  tell("io_uring", syscall(SYS_io_uring_setup, 1, NULL));
  tell("load a module", syscall(SYS_finit_module, -1, "", 0));
  tell("set the clock", syscall(SYS_clock_settime, 0, NULL));
  fflush(stdout);
  return count > 1 && read(STDIN_FILENO, name, 1) != 0;
}
