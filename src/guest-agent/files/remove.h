/* REMOVE: removes a file, or a folder with everything below it. */
#ifndef FIRKIN_REMOVE_H
#define FIRKIN_REMOVE_H

#include "link/request.h"

void open_remove(struct request *request);

#endif
