/* STAT, MAKE_DIRECTORY and MOVE: operations of one step. */
#ifndef FIRKIN_ONE_STEP_H
#define FIRKIN_ONE_STEP_H

#include "link/request.h"

void open_stat(struct request *request);
void open_make_directory(struct request *request);
void open_move(struct request *request);

#endif
