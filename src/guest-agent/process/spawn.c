/*
 * Spawning, by vfork and exec. The child borrows the agent's memory until it runs its program, so that nothing is
 * copied (page faults are dear under emulation) and failures come back as plain values. Until then the child only makes
 * system calls.
 */
#include "process/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AGENT_FILES = 65536, PROGRAM_FILES_SOFT = 65536, PROGRAM_FILES_HARD = 524288 };

static struct rlimit program_files;
static cpu_set_t program_processors;

/*
 * The agent stays on the processor that handles its port's interrupts. Otherwise each message wakes a second processor,
 * which under emulation is a second thread of the host, with its own share of code to translate after a restore.
 */
static void stay_on_first_processor(void) {
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  sched_setaffinity(0, sizeof first, &first);
}

void spawn_limits_start(bool is_init) {
  struct rlimit own;
  getrlimit(RLIMIT_NOFILE, &program_files);
  own = (struct rlimit){.rlim_cur = AGENT_FILES, .rlim_max = PROGRAM_FILES_HARD};
  if (is_init) program_files = (struct rlimit){.rlim_cur = PROGRAM_FILES_SOFT, .rlim_max = PROGRAM_FILES_HARD};
  if (!is_init) own.rlim_max = program_files.rlim_max;
  if (own.rlim_cur > own.rlim_max) own.rlim_cur = own.rlim_max;
  setrlimit(RLIMIT_NOFILE, &own);
  sched_getaffinity(0, sizeof program_processors, &program_processors);
  if (is_init) stay_on_first_processor();
}

static bool set_session(const struct spawn *plan) {
  if (setsid() < 0) return false;
  if (plan->terminal && ioctl(plan->stdio[0], TIOCSCTTY, 0) != 0) return false;
  for (int i = 0; i < 3; i++) {
    if (dup2(plan->stdio[i], i) < 0) return false;
  }
  syscall(SYS_close_range, 3U, UINT_MAX, 0U);
  return true;
}

/* Makes the program a likelier victim than the agent when memory runs out. A kernel that refuses does not matter. */
static void set_oom_score(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t ignored = write(fd, "100", 3);
  (void)ignored;
  close(fd);
}

static bool set_identity(const struct spawn *plan) {
  bool is_self = plan->uid == geteuid() && plan->gid == getegid();
  if (geteuid() == 0 && setgroups(plan->group_count, plan->groups) != 0) return false;
  if (is_self && geteuid() != 0) return true;
  return setresgid(plan->gid, plan->gid, plan->gid) == 0 && setresuid(plan->uid, plan->uid, plan->uid) == 0;
}

static void reset_signals(void) {
  sigset_t none;
  for (int number = 1; number < NSIG; number++) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(number, &standard, NULL);
  }
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Returns only if no program could be run, with the error that is worth a report. */
static int try_programs(const struct spawn *plan) {
  int error = ENOENT;
  for (char *const *program = plan->programs; *program != NULL; program++) {
    execve(*program, plan->arguments, plan->environment);
    if (errno != ENOENT && errno != ENOTDIR) error = errno;
    if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) break;
  }
  return error;
}

static void __attribute__((noreturn)) become(const struct spawn *plan, volatile struct spawn_failure *failure) {
  failure->step = SPAWN_SESSION;
  failure->error = 0;
  if (set_session(plan)) {
    set_oom_score();
    setrlimit(RLIMIT_NOFILE, &program_files);
    sched_setaffinity(0, sizeof program_processors, &program_processors);
    umask(022);
    failure->step = SPAWN_IDENTITY;
    if (set_identity(plan)) {
      if (plan->dies_with_agent) prctl(PR_SET_PDEATHSIG, SIGKILL);
      failure->step = SPAWN_CWD;
      if (chdir(plan->cwd) == 0) {
        reset_signals();
        failure->step = SPAWN_PROGRAM;
        failure->error = try_programs(plan);
      }
    }
  }
  if (failure->error == 0) failure->error = errno;
  _exit(127);
}

pid_t spawn(const struct spawn *plan, struct spawn_failure *failure) {
  volatile struct spawn_failure seen = {.step = SPAWN_FORK, .error = 0};
  pid_t pid = vfork();
  if (pid == 0) become(plan, &seen);
  int error = pid < 0 ? errno : seen.error;
  *failure = (struct spawn_failure){.step = seen.step, .error = error};
  if (pid > 0 && error == 0) return pid;
  if (pid > 0) waitpid(pid, NULL, 0);
  return -1;
}
