/* Steps in the life of a process that process.c and process_table.c share. */
#ifndef FIRKIN_PROCESS_OUTPUT_H
#define FIRKIN_PROCESS_OUTPUT_H

#include "process.h"

/* For `loop_add` of an output. */
void process_output_notice(struct source *source, uint32_t events);
void process_output_close(struct process_output *output);
/* It is no longer among those whose output is thrown away. */
void process_stop_discarding(struct process *process);
/* Ends it if it has exited and its outputs are closed; it may be forgotten at once then, unless a stream is attached. */
void process_end_if_drained(struct process *process);
/* The table's part of that. */
void process_table_ended(struct process *process);

#endif
