/* The children of the agent: new processes enter the table, and ended ones are reaped. */
#ifndef FIRKIN_CHILDREN_H
#define FIRKIN_CHILDREN_H

#include "process/process.h"

/* The agent's descriptors of a new process, each -1 when there is none. `process_add` takes them over. */
struct process_pipes {
  int input;
  int outputs[2];
};

/*
 * Readies a table that is all zeros and begins to reap. False with errno. The loop and the accounts outlive the table.
 */
bool processes_start(struct process_table *table, struct loop *loop, struct accounts *accounts, bool die_with_agent);
/* Forgets all processes and kills none. */
void processes_stop(struct process_table *table);

/* Kills every process that descends from the agent, which is their subreaper. */
void children_kill(void);

/* Enters a process that was just spawned. On failure closes the pipes, kills the process and returns NULL. */
struct process *process_add(struct process_table *table, pid_t pid, bool terminal, const struct process_pipes *pipes);

#endif
