/* ATTACH, LIST and SIGNAL. The room of their streams is the process table. */
#ifndef FIRKIN_ASK_H
#define FIRKIN_ASK_H

#include "link/request.h"

void open_attach(struct request *request);
void open_list(struct request *request);
void open_signal(struct request *request);

#endif
