/* What the parts of the keeper share. */
#ifndef FIRKIN_KEEPER_H
#define FIRKIN_KEEPER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Says what failed in the log, with errno, and ends the box. */
_Noreturn void fail(const char *what);

#endif
