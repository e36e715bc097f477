/*
 * `intruder PORT PID WRITABLE READABLE OTHER`: an engine that its guest has taken over. Tries what such a process would
 * try, and prints a line for each attempt: its name, and `done` or the error's name.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long result) { printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "done"); }

static long open_and_close(const char *path, int flags) {
  int file = open(path, flags, 0600);
  if (file >= 0) close(file);
  return file;
}

static long connect_to(int port) {
  int connection = socket(AF_INET, SOCK_STREAM, 0);
  if (connection < 0) return -1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct timeval patience = {.tv_sec = 1};
  setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  return connect(connection, (struct sockaddr *)&address, sizeof address);
}

static void *nothing(void *unused) { return unused; }

int main(int count, char **arguments) {
  if (count < 6) return 2;
  int pid = atoi(arguments[2]);
  /* The caller identifies the process while it runs. */
  sleep(1);
  for (int number = 3; number < 64; number++) {
    if (fcntl(number, F_GETFD) >= 0) printf("descriptor %d\n", number);
  }
  printf("uid %d\n", getuid());
  tell("read /etc/shadow", open_and_close("/etc/shadow", O_RDONLY));
  tell("write /etc/cron.d", open_and_close("/etc/cron.d/firkin", O_WRONLY | O_CREAT));
  tell("write a file in /", open_and_close("/file", O_WRONLY | O_CREAT));
  tell("write its own file", open_and_close(arguments[3], O_RDWR));
  tell("read the template", open_and_close(arguments[4], O_RDONLY));
  tell("write the template", open_and_close(arguments[4], O_RDWR));
  tell("own the template", chmod(arguments[4], 0777));
  tell("read another machine", open_and_close(arguments[5], O_RDONLY));
  tell("connect to the daemon", connect_to(atoi(arguments[1])));
  tell("signal the daemon", kill(pid, 0));
  tell("trace the daemon", ptrace(PTRACE_SEIZE, pid, NULL, NULL));
  tell("take a descriptor of the daemon", syscall(SYS_pidfd_open, pid, 0));
  tell("packet socket", socket(AF_PACKET, SOCK_RAW, 0));
  tell("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
  tell("user namespace", unshare(CLONE_NEWUSER));
  tell("become root", setuid(0));
  tell("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, NULL, 0));
  tell("perf", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
  tell("userfaultfd", syscall(SYS_userfaultfd, 0));
  tell("keys", syscall(SYS_add_key, "user", "a", "b", 1, -1));
  tell("io_uring", syscall(SYS_io_uring_setup, 1, NULL));
  tell("load a module", syscall(SYS_finit_module, -1, "", 0));
  pid_t child = fork();
  if (child == 0) _exit(0);
  tell("fork", child);
  pthread_t thread;
  errno = pthread_create(&thread, NULL, nothing, NULL);
  tell("thread", errno ? -1 : 0);
  struct rlimit core;
  getrlimit(RLIMIT_CORE, &core);
  printf("core %ld\n", (long)core.rlim_max);
  return 0;
}
