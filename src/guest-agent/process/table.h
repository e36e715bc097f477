/* The process table: finding, ending and forgetting processes. */
#ifndef FIRKIN_PROCESS_TABLE_H
#define FIRKIN_PROCESS_TABLE_H

#include "process/process.h"

/*
 * By pid or tag. A running process is preferred to an ended one, and a newer one to an older one. NULL when there is no
 * such process.
 */
struct process *process_by_pid(struct process_table *table, pid_t pid);
struct process *process_by_tag(struct process_table *table, const char *tag);

void process_close_output(struct process_output *output);
/* Takes the process off the list of those with output to be thrown away. */
void process_stop_discarding(struct process *process);

/*
 * Ends the process if it has exited and its outputs are closed. The process may be forgotten at once then, unless a
 * stream is attached.
 */
void process_end_if_drained(struct process *process);

/* Closes the pipes of the process and frees it. The process itself is left alone. */
void process_forget(struct process *process);

/* Forgets the ended processes that are due; returns when the next one is (INT64_MAX: none). */
int64_t processes_expire(struct process_table *table, int64_t now);

#endif
