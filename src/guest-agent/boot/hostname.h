/* The host name of the machine. */
#ifndef FIRKIN_HOSTNAME_H
#define FIRKIN_HOSTNAME_H

#include <stdbool.h>

enum { HOSTNAME_BYTES = 65 };

/* True for 1 to 64 letters, digits, dots and dashes. */
bool hostname_is_valid(const char *name);

/*
 * Writes the name into /etc/hostname, and as 127.0.1.1 into /etc/hosts, where programs look for it. False with errno.
 */
bool hostname_write_files(const char *name);

#endif
