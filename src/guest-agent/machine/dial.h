/* DIAL: a TCP connection to a port inside the guest. */
#ifndef FIRKIN_DIAL_H
#define FIRKIN_DIAL_H

#include "link/request.h"

void open_dial(struct request *request);

#endif
