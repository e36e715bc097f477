/*
 * System calls that nothing in a box needs: not the keeper, not runsc before it has raised gVisor's own filter, which
 * is narrower, and which goes first wherever it does not allow a call.
 */
#ifndef FIRKIN_BOX_CALLS_H
#define FIRKIN_BOX_CALLS_H

#include "../jail/call_filter.h"

static const int refused_calls[] = {
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_open_by_handle_at,
    SYS_fanotify_init,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_quotactl,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_vhangup,
    SYS_kcmp,
    SYS_move_pages,
    SYS_migrate_pages,
    SYS_lookup_dcookie,
#ifdef __x86_64__
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
#endif
};

/* Refuses them from now on, over exec too. Needs no_new_privs. Returns 0, or -1 with errno. */
static int refuse_calls(void) {
  /* Not an end of the process: a guest may make such calls, and gVisor answers them. */
  filter_begin(SECCOMP_RET_ERRNO | ENOSYS);
  filter_answer(refused_calls, COUNT_OF(refused_calls), SECCOMP_RET_ERRNO | EPERM);
  ANSWER(SECCOMP_RET_ALLOW);
  return filter_install();
}

#endif
