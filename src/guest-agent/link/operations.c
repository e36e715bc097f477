/* The operation table, asked by the dispatch. */
#include "link/operations.h"

#include <stddef.h>

void operation_open(const struct operation_table *table, struct stream *stream, uint16_t operation,
                    struct slice fields) {
  struct request request = {.stream = stream, .fields = fields};
  if (operation >= OPERATION_SLOTS || table->slots[operation].open == NULL) {
    stream_fail(stream, STATUS_UNSUPPORTED, "operation %u is not known", operation);
    return;
  }
  if (!fields_check(fields)) {
    stream_fail(stream, STATUS_INVALID_ARGUMENT, "the fields of the request are cut short");
    return;
  }
  if (!table->admit(table->context, stream, operation)) return;
  stream->room = table->slots[operation].room;
  table->slots[operation].open(&request);
}
