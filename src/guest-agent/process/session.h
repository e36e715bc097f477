/* The session of a command: the command and all that it has started, but for what made itself a session of its own. */
#ifndef FIRKIN_PROCESS_SESSION_H
#define FIRKIN_PROCESS_SESSION_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Sends the signal to every other process of the session that `leader` began. Once the leader is reaped, its number
 * counts only while no other process has it.
 */
void session_end(pid_t leader, bool leader_is_there, int number);

#endif
