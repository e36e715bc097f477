/* WATCH: reports changes in a folder until the host has lost interest. */
#ifndef FIRKIN_WATCH_H
#define FIRKIN_WATCH_H

#include "link/request.h"

void open_watch(struct request *request);

#endif
