/* The operations of the agent, for the table that the guest link asks. */
#ifndef FIRKIN_OPERATIONS_H
#define FIRKIN_OPERATIONS_H

#include "files/files.h"
#include "link/operations.h"
#include "machine/machine.h"

/* Fills the table with every operation, each on the state of its room. */
void operations_start(struct operation_table *table, struct file_room *files, struct machine *machine);

#endif
