/* The console, which is descriptor 2 of process 1. */
#include "boot/console.h"

#include <stdarg.h>
#include <stdio.h>

void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  dprintf(2, "firkin-agent: ");
  vdprintf(2, format, arguments);
  dprintf(2, "\n");
  va_end(arguments);
}
