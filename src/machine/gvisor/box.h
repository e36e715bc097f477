/* What the parts of the box share. */
#ifndef FIRKIN_BOX_H
#define FIRKIN_BOX_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Says what failed where the caller listens, with errno, and ends. */
_Noreturn void fail(const char *format, ...);

#endif
