/* The options on the kernel's command line. */
#ifndef FIRKIN_KERNEL_OPTIONS_H
#define FIRKIN_KERNEL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* Copies the value of the last `name=value`. False when there is none that fits. */
bool kernel_option(const char *name, char *out, size_t size);

#endif
