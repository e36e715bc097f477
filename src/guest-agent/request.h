/* An OPEN being looked at: its fields, and what is wrong with them. */
#ifndef FIRKIN_REQUEST_H
#define FIRKIN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fields.h"
#include "users.h"

struct stream;

enum { PATH_BYTES = 4096 };

/* Getters note the first field that is malformed in `problem` and go on as if it were absent. */
struct request {
  struct stream *stream;
  struct slice fields;
  const char *problem;
};

/* The parts of an OPEN that came in several frames. */
struct open_parts {
  uint32_t stream;
  uint16_t operation;
  bool too_long;
  /* NULL when no OPEN is under way. */
  uint8_t *fields;
  size_t length;
};

/* A user and a path of theirs, resolved. */
struct place {
  struct account account;
  char path[PATH_BYTES];
};

uint64_t request_int(struct request *request, uint8_t tag, uint64_t fallback);
bool request_bool(struct request *request, uint8_t tag);
/* False when absent or malformed; `out` is an empty string then. */
bool request_text(struct request *request, uint8_t tag, char *out, size_t size);
bool request_has(const struct request *request, uint8_t tag);

/* Ends the stream and returns true when a field was malformed. */
bool request_refused(struct request *request);

/* Copies a field's value as a string of its own; NULL when it holds a NUL or memory is short. */
char *slice_to_string(struct slice value);

/* The account that USER names, or the default one; otherwise ends the stream and returns false. */
bool request_account(struct request *request, struct account *account);

/* USER and the path in `tag`; otherwise ends the stream and returns false. */
bool request_place(struct request *request, uint8_t tag, struct place *place);

/* A path as that account means it; otherwise ends the stream and returns false. */
bool request_resolve(struct stream *stream, const struct account *account, const char *asked, char out[PATH_BYTES]);

#endif
