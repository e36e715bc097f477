/* Input of processes: stdin and keystrokes. */
#ifndef FIRKIN_PROCESS_INPUT_H
#define FIRKIN_PROCESS_INPUT_H

#include "process.h"

/* Takes over the descriptor, also on failure. */
bool process_input_open(struct process *process, int fd);
/* Closes it at once and throws away what waits. */
void process_input_close(struct process *process);
/* Bytes from the attached stream. */
void process_input_take(struct process *process, struct slice bytes);
/* Closes stdin when what waits is written; does nothing to a terminal. */
void process_input_end(struct process *process);
/* COLUMNS and ROWS for a terminal. */
void process_resize(struct process *process, struct slice fields);

#endif
