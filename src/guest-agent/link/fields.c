/* Fields, read and written. Every length is checked against the bytes that are there. */
#include "link/fields.h"

#include <string.h>

#include "base/bytes.h"

enum { FIELD_HEADER_BYTES = 5 };

bool fields_check(struct slice fields) {
  while (fields.length > 0) {
    if (fields.length < FIELD_HEADER_BYTES) return false;
    size_t length = get_u32(fields.bytes + 1);
    if (length > fields.length - FIELD_HEADER_BYTES) return false;
    fields.bytes += FIELD_HEADER_BYTES + length;
    fields.length -= FIELD_HEADER_BYTES + length;
  }
  return true;
}

bool fields_next(struct slice *fields, uint8_t *tag, struct slice *value) {
  if (fields->length < FIELD_HEADER_BYTES) return false;
  size_t length = get_u32(fields->bytes + 1);
  if (length > fields->length - FIELD_HEADER_BYTES) return false;
  *tag = fields->bytes[0];
  *value = (struct slice){.bytes = fields->bytes + FIELD_HEADER_BYTES, .length = length};
  fields->bytes += FIELD_HEADER_BYTES + length;
  fields->length -= FIELD_HEADER_BYTES + length;
  return true;
}

bool fields_find(struct slice fields, uint8_t tag, struct slice *value) {
  uint8_t found;
  while (fields_next(&fields, &found, value)) {
    if (found == tag) return true;
  }
  return false;
}

void writer_start(struct writer *writer, uint16_t kind) {
  put_u16(writer->bytes, kind);
  writer->length = 2;
  writer->overflow = false;
}

static uint8_t *reserve(struct writer *writer, size_t length) {
  if (writer->overflow || length > writer->capacity - writer->length) {
    writer->overflow = true;
    return NULL;
  }
  uint8_t *at = writer->bytes + writer->length;
  writer->length += length;
  return at;
}

static uint8_t *reserve_field(struct writer *writer, uint8_t tag, size_t length) {
  if (length > writer->capacity) {
    writer->overflow = true;
    return NULL;
  }
  uint8_t *at = reserve(writer, FIELD_HEADER_BYTES + length);
  if (at == NULL) return NULL;
  at[0] = tag;
  put_u32(at + 1, (uint32_t)length);
  return at + FIELD_HEADER_BYTES;
}

void put_bytes(struct writer *writer, uint8_t tag, const void *bytes, size_t length) {
  uint8_t *at = reserve_field(writer, tag, length);
  if (at != NULL && length > 0) memcpy(at, bytes, length);
}

void put_string(struct writer *writer, uint8_t tag, const char *text) { put_bytes(writer, tag, text, strlen(text)); }

void put_int(struct writer *writer, uint8_t tag, uint64_t value) {
  uint8_t *at = reserve_field(writer, tag, 8);
  if (at != NULL) put_u64(at, value);
}

void put_signed(struct writer *writer, uint8_t tag, int64_t value) { put_int(writer, tag, (uint64_t)value); }

void put_bool(struct writer *writer, uint8_t tag, bool value) {
  uint8_t *at = reserve_field(writer, tag, 1);
  if (at != NULL) *at = value ? 1 : 0;
}

void put_fields(struct writer *writer, const uint8_t *fields, size_t length) {
  uint8_t *at = reserve(writer, length);
  if (at != NULL && length > 0) memcpy(at, fields, length);
}

size_t begin_group(struct writer *writer, uint8_t tag) {
  reserve_field(writer, tag, 0);
  return writer->length;
}

void end_group(struct writer *writer, size_t mark) {
  if (!writer->overflow) put_u32(writer->bytes + mark - 4, (uint32_t)(writer->length - mark));
}
