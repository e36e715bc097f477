/* The getters for the fields of a request. */
#include "link/request.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static bool find(const struct request *request, uint8_t tag, struct slice *value) {
  return fields_find(request->fields, tag, value);
}

static void note(struct request *request, const char *problem) {
  if (request->problem == NULL) request->problem = problem;
}

bool request_has(const struct request *request, uint8_t tag) {
  struct slice value;
  return find(request, tag, &value);
}

uint64_t request_int(struct request *request, uint8_t tag, uint64_t fallback) {
  struct slice value;
  if (!find(request, tag, &value)) return fallback;
  if (value.length == 8) return get_u64(value.bytes);
  note(request, "an integer field is not 8 bytes long");
  return fallback;
}

bool request_bool(struct request *request, uint8_t tag) {
  struct slice value;
  if (!find(request, tag, &value)) return false;
  if (value.length == 1) return value.bytes[0] != 0;
  note(request, "a boolean field is not 1 byte long");
  return false;
}

bool request_text(struct request *request, uint8_t tag, char *out, size_t size) {
  struct slice value;
  out[0] = '\0';
  if (!find(request, tag, &value)) return false;
  if (value.length >= size) {
    bool is_path = tag == TAG_PATH || tag == TAG_DESTINATION || tag == TAG_CWD;
    note(request, is_path ? "a path is too long" : "a string is too long");
    return false;
  }
  if (value.length > 0 && memchr(value.bytes, 0, value.length) != NULL) {
    note(request, "a string holds a NUL byte");
    return false;
  }
  if (value.length > 0) memcpy(out, value.bytes, value.length);
  out[value.length] = '\0';
  return true;
}

bool request_refused(struct request *request) {
  if (request->problem == NULL) return false;
  stream_fail(request->stream, STATUS_INVALID_ARGUMENT, "%s", request->problem);
  return true;
}

char *slice_to_string(struct slice value) {
  if (value.length > 0 && memchr(value.bytes, 0, value.length) != NULL) return NULL;
  char *text = malloc(value.length + 1);
  if (text == NULL) return NULL;
  if (value.length > 0) memcpy(text, value.bytes, value.length);
  text[value.length] = '\0';
  return text;
}
