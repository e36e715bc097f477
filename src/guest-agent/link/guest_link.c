/* The guest link as a whole. */
#include "link/guest_link.h"

void guest_link_start(struct guest_link *link, struct loop *loop, const struct operation_table *operations) {
  streams_start(&link->streams, &link->output);
  link->dispatch = (struct dispatch){.streams = &link->streams, .operations = operations};
  link_start(&link->link, loop, &link->output, &link->dispatch);
  source_start(&link->source, &link->link);
}

void guest_link_stop(struct guest_link *link) { source_stop(&link->source); }

void guest_link_send(struct guest_link *link) {
  streams_serve(&link->streams);
  link_send(&link->link);
}

bool guest_link_is_busy(const struct guest_link *link) {
  return link_is_busy(&link->link) || (link->link.paused && dispatch_has_room(&link->dispatch));
}

bool guest_link_is_drained(const struct guest_link *link) {
  return link->streams.count == 0 && link->output.length == 0;
}
