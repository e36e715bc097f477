/* SHUTDOWN: the orderly end of the machine. */
#ifndef FIRKIN_SHUTDOWN_H
#define FIRKIN_SHUTDOWN_H

#include <stdint.h>

#include "link/request.h"
#include "machine/machine.h"

void open_shutdown(struct request *request);

/* Goes on with a shutdown; returns when the next call is due at the latest (INT64_MAX: never). */
int64_t shutdown_tick(struct machine *machine, int64_t now);

#endif
