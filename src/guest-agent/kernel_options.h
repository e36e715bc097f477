/* Words of the kernel's command line. */
#ifndef FIRKIN_KERNEL_OPTIONS_H
#define FIRKIN_KERNEL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* The value of the last `name=value`; false if there is none, or it is too long. */
bool kernel_option(const char *name, char *out, size_t size);

#endif
