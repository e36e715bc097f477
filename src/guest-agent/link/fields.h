/* Fields: the tag-length-value lists inside structured payloads. */
#ifndef FIRKIN_FIELDS_H
#define FIRKIN_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A list of fields that was checked with `fields_check`, or one field's value. */
struct slice {
  const uint8_t *bytes;
  size_t length;
};

/* True when the list ends where its last field ends. */
bool fields_check(struct slice fields);

/* Takes the next field off a checked list. False at the end of the list. */
bool fields_next(struct slice *fields, uint8_t *tag, struct slice *value);

/* Finds the first field with that tag. */
bool fields_find(struct slice fields, uint8_t tag, struct slice *value);

/* The writer puts a payload into memory of fixed size. A field that does not fit sets `overflow` and is left out. */
struct writer {
  uint8_t *bytes;
  size_t length;
  size_t capacity;
  bool overflow;
};

/* Starts a payload with its leading number (event kind or status). */
void writer_start(struct writer *writer, uint16_t kind);
void put_bytes(struct writer *writer, uint8_t tag, const void *bytes, size_t length);
void put_string(struct writer *writer, uint8_t tag, const char *text);
void put_int(struct writer *writer, uint8_t tag, uint64_t value);
void put_signed(struct writer *writer, uint8_t tag, int64_t value);
void put_bool(struct writer *writer, uint8_t tag, bool value);
/* Appends a list of fields as it is. */
void put_fields(struct writer *writer, const uint8_t *fields, size_t length);
/* Fields written until `end_group(writer, mark)` are the group's. */
size_t begin_group(struct writer *writer, uint8_t tag);
void end_group(struct writer *writer, size_t mark);

#endif
