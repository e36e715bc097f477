/* EXEC. The room of its stream is the process table. */
#ifndef FIRKIN_EXEC_H
#define FIRKIN_EXEC_H

#include "link/request.h"

void open_exec(struct request *request);

#endif
