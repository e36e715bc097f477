/* The request: the fields of an OPEN, and what is wrong with them. */
#ifndef FIRKIN_REQUEST_H
#define FIRKIN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link/fields.h"
#include "link/streams.h"

/* A getter that meets a malformed field notes the first such `problem` and goes on as if the field were absent. */
struct request {
  struct stream *stream;
  struct slice fields;
  const char *problem;
};

uint64_t request_int(struct request *request, uint8_t tag, uint64_t fallback);
bool request_bool(struct request *request, uint8_t tag);
/* False when the field is absent or malformed; `out` is an empty string then. */
bool request_text(struct request *request, uint8_t tag, char *out, size_t size);
bool request_has(const struct request *request, uint8_t tag);

/* Ends the stream and returns true when a field was malformed. */
bool request_refused(struct request *request);

/* Copies a field's value into a new string. NULL when the value holds a NUL or memory is short. */
char *slice_to_string(struct slice value);

#endif
