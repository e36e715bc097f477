/* System calls that Swift's Glibc module leaves out, because glibc shows them to GNU programs only. */
#ifndef LINUX_CALLS_H
#define LINUX_CALLS_H

#include <stddef.h>
#include <sys/types.h>

/* copy_file_range(2) at the same offset of both files. */
ssize_t linux_copy_range(int from, int to, off_t offset, size_t length);

/* FICLONE of ioctl_ficlonerange(2). */
int linux_clone(int from, int to);

#endif
