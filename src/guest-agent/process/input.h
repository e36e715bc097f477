/* The input of processes: stdin and keystrokes. */
#ifndef FIRKIN_PROCESS_INPUT_H
#define FIRKIN_PROCESS_INPUT_H

#include "process/process.h"

/* Takes the descriptor over, also on failure. */
bool process_input_open(struct process *process, int fd);
/* Closes the input at once and throws waiting bytes away. */
void process_input_close(struct process *process);
/* Takes bytes from the attached stream. */
void process_input_take(struct process *process, struct slice bytes);
/* Closes stdin once the waiting bytes are written. Does nothing to a terminal. */
void process_input_end(struct process *process);
/* Gives a terminal the size in COLUMNS and ROWS. */
void process_resize(struct process *process, struct slice fields);

#endif
