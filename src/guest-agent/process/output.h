/* The output of processes: on its way to the attached stream, or thrown away. */
#ifndef FIRKIN_PROCESS_OUTPUT_H
#define FIRKIN_PROCESS_OUTPUT_H

#include "process/process.h"

/* The notice function of an output, for `loop_add`. */
void process_output_notice(struct event_source *source, uint32_t events);

/* Makes this the stream of the process. A stream that was attached before ends. */
void process_attach(struct process *process, struct stream *stream);

/* Ends the wait for other processes that hold the pipes of this one, now or when it exits. */
void process_stop_waiting(struct process *process);

/* Writes EXIT_CODE EXITED [SIGNAL], unless the process runs. */
void process_put_end(const struct process *process, struct writer *writer);

/* Reads and throws away output of processes without a stream. True when there is more to read at once. */
bool processes_discard(struct process_table *table);

#endif
