/* A filter of system calls, put together from lists. A process keeps it over exec and hands it on to its children. */
#ifndef FIRKIN_CALL_FILTER_H
#define FIRKIN_CALL_FILTER_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define FILTER_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define FILTER_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the filters know the system calls of x86-64 and arm64 only"
#endif

enum { X32_CALLS = 0x40000000, MAX_FILTER = 512 };

static struct {
  struct sock_filter code[MAX_FILTER];
  unsigned short length;
} filter;

#define EMIT(...) filter.code[filter.length++] = (struct sock_filter)__VA_ARGS__
#define LOAD(field) EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field)))
#define ANSWER(value) EMIT(BPF_STMT(BPF_RET | BPF_K, value))
#define COUNT_OF(list) (sizeof(list) / sizeof *(list))

/* @param foreign what calls of another architecture are answered */
static void filter_begin(unsigned foreign) {
  filter.length = 0;
  LOAD(arch);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCHITECTURE, 1, 0));
  ANSWER(foreign);
  LOAD(nr);
#ifdef __x86_64__
  EMIT(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_CALLS, 0, 1));
  ANSWER(foreign);
#endif
}

static void filter_answer(const int *calls, size_t count, unsigned answer) {
  for (size_t i = 0; i < count; i++) {
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1));
    ANSWER(answer);
  }
}

/* Filters from now on. Needs no_new_privs. Returns 0, or -1 with errno. */
static int filter_install(void) {
  struct sock_fprog program = {filter.length, filter.code};
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

#endif
