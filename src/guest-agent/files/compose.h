/* COMPOSE: joins files into one. */
#ifndef FIRKIN_COMPOSE_H
#define FIRKIN_COMPOSE_H

#include "link/request.h"

void open_compose(struct request *request);

#endif
