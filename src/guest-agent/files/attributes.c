/* Attributes. The set of a file is replaced as a whole. */
#include "files/attributes.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "files/entry.h"
#include "link/protocol.h"

static bool remove_all(int fd) {
  char names[XATTR_LIST_MAX];
  ssize_t length = flistxattr(fd, names, sizeof names);
  for (const char *name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
    if (strncmp(name, attribute_prefix, strlen(attribute_prefix)) != 0) continue;
    if (fremovexattr(fd, name) != 0 && errno != ENODATA) return false;
  }
  return true;
}

static bool set_one(int fd, struct slice group) {
  char name[XATTR_NAME_MAX + 1];
  struct slice key, value;
  size_t prefix = strlen(attribute_prefix);
  errno = EINVAL;
  if (!fields_check(group) || !fields_find(group, TAG_NAME, &key)) return false;
  if (!fields_find(group, TAG_VALUE, &value)) value = (struct slice){0};
  if (key.length == 0 || key.length > XATTR_NAME_MAX - prefix || memchr(key.bytes, 0, key.length) != NULL) return false;
  memcpy(name, attribute_prefix, prefix);
  memcpy(name + prefix, key.bytes, key.length);
  name[prefix + key.length] = '\0';
  return fsetxattr(fd, name, value.bytes, value.length, 0) == 0;
}

bool attributes_replace(int fd, struct slice fields) {
  uint8_t tag;
  struct slice value;
  if (!remove_all(fd)) return false;
  while (fields_next(&fields, &tag, &value)) {
    if (tag == TAG_XATTR && !set_one(fd, value)) return false;
  }
  return true;
}
