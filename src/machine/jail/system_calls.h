/*
 * The system calls that a process in the jail may make. An engine needs few; the packet guard and passt need more,
 * because passt makes namespaces of its own. Every other call answers EPERM.
 */
#ifndef FIRKIN_SYSTEM_CALLS_H
#define FIRKIN_SYSTEM_CALLS_H

#include <sched.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "call_filter.h"

/* What every program in the jail may do: its own files, memory, threads, clocks and Unix sockets. */
static const int common_calls[] = {
    SYS_futex,
    SYS_ppoll,
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_ioctl,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_sendto,
    SYS_epoll_pwait,
    SYS_epoll_ctl,
    SYS_epoll_create1,
    SYS_eventfd2,
    SYS_signalfd4,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_mmap,
    SYS_munmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_membarrier,
    SYS_openat,
    SYS_close,
    SYS_close_range,
    SYS_lseek,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_getcwd,
    SYS_unlinkat,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync_file_range,
    SYS_fadvise64,
    SYS_copy_file_range,
    SYS_statfs,
    SYS_fstatfs,
    SYS_fcntl,
    SYS_flock,
    SYS_umask,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_memfd_create,
    SYS_socketpair,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_connect,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigpending,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    SYS_tgkill,
    SYS_getpid,
    SYS_getppid,
    SYS_gettid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_getresuid,
    SYS_getresgid,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrandom,
    SYS_prctl,
    SYS_prlimit64,
    SYS_getrusage,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_set_tid_address,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_rseq,
    SYS_get_mempolicy,
    SYS_set_mempolicy,
    SYS_mbind,
    SYS_seccomp,
    SYS_restart_syscall,
    SYS_exit,
    SYS_exit_group,
    SYS_execve,
#ifdef __x86_64__
    SYS_poll,
    SYS_select,
    SYS_pselect6,
    SYS_epoll_wait,
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_unlink,
    SYS_getrlimit,
    SYS_arch_prctl,
    SYS_time,
    SYS_dup2,
    SYS_pipe,
#else
    SYS_pselect6,
#endif
};

/* What the packet guard and passt do besides. passt gives up what it can and filters its own calls after that. */
static const int network_calls[] = {
    SYS_socket,   SYS_clone,     SYS_wait4,        SYS_waitid,    SYS_kill,       SYS_setsid, SYS_getsid, SYS_setpgid,
    SYS_getpgid,  SYS_unshare,   SYS_mount,        SYS_umount2,   SYS_pivot_root, SYS_chdir,  SYS_fchdir, SYS_setuid,
    SYS_setgid,   SYS_setgroups, SYS_setresuid,    SYS_setresgid, SYS_capget,     SYS_capset, SYS_splice, SYS_tee,
    SYS_recvmmsg, SYS_sendmmsg,  SYS_epoll_pwait2, SYS_mkdirat,   SYS_setrlimit,  SYS_setns,
#ifdef __x86_64__
    SYS_fork,     SYS_vfork,     SYS_mkdir,
#endif
};

/* Filters from now on, over exec too. Needs no_new_privs. Returns 0, or -1 with errno. */
static int filter_system_calls(bool for_network) {
  filter_begin(SECCOMP_RET_KILL_PROCESS);
  filter_answer(common_calls, COUNT_OF(common_calls), SECCOMP_RET_ALLOW);
  if (for_network) filter_answer(network_calls, COUNT_OF(network_calls), SECCOMP_RET_ALLOW);
  /* The C library makes threads with clone where clone3, whose flags no filter can read, is not there. */
  filter_answer((const int[]){SYS_clone3}, 1, SECCOMP_RET_ERRNO | ENOSYS);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4));
  LOAD(args[0]);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1));
  ANSWER(SECCOMP_RET_ALLOW);
  ANSWER(SECCOMP_RET_ERRNO | EPERM);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3));
  LOAD(args[0]);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 0, 1));
  ANSWER(SECCOMP_RET_ALLOW);
  ANSWER(SECCOMP_RET_ERRNO | EPERM);
  return filter_install();
}

#endif
