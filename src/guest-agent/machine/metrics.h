/* METRICS: the load of processors, memory and root disk. */
#ifndef FIRKIN_METRICS_H
#define FIRKIN_METRICS_H

#include "link/request.h"

void open_metrics(struct request *request);

#endif
