/* The machine's name. */
#ifndef FIRKIN_HOSTNAME_H
#define FIRKIN_HOSTNAME_H

#include <stdbool.h>

enum { HOSTNAME_BYTES = 65 };

/* 1 to 64 letters, digits, dots and dashes. */
bool hostname_is_valid(const char *name);

/* Writes the name where programs look for it: /etc/hostname, and as 127.0.1.1 in /etc/hosts. False with errno. */
bool hostname_write_files(const char *name);

#endif
