/* SETUP: makes a restored machine one particular sandbox. */
#ifndef FIRKIN_SETUP_H
#define FIRKIN_SETUP_H

#include "link/request.h"

void open_setup(struct request *request);

#endif
