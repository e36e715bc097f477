/* What a good frame means: opens streams and hands everything else to the stream it is for. */
#ifndef FIRKIN_DISPATCH_H
#define FIRKIN_DISPATCH_H

#include <stdbool.h>

#include "frames.h"

struct agent;

/* Acts on a frame other than HELLO. False when it breaks the protocol. */
bool dispatch_frame(struct agent *agent, const struct frame *frame);

/* False while an OPEN cannot even be refused. */
bool dispatch_has_room(const struct agent *agent);

/* Forgets everything that belongs to the connection. */
void dispatch_forget(struct agent *agent);

#endif
