/* LIST_DIRECTORY: lists a folder, as deep as the request says. */
#ifndef FIRKIN_WALK_H
#define FIRKIN_WALK_H

#include "link/request.h"

void open_list_directory(struct request *request);

#endif
