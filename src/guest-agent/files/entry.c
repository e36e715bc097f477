/* Entries, from lstat. A link takes kind, mode, size, owner and time from its target. */
#include "files/entry.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "accounts/paths.h"
#include "files/files.h"

const char attribute_prefix[] = "user.e2b.";

static enum entry_kind kind_of(mode_t mode) {
  if (S_ISREG(mode)) return ENTRY_FILE;
  return S_ISDIR(mode) ? ENTRY_DIRECTORY : ENTRY_OTHER;
}

/* Writes one attribute, unless it is over the budget or gone by now. */
static void put_attribute(struct writer *writer, const char *path, const char *name, size_t *budget) {
  char value[MAX_ATTRIBUTE_BYTES];
  ssize_t length = getxattr(path, name, value, sizeof value);
  if (length < 0 || (size_t)length + strlen(name) > *budget) return;
  *budget -= (size_t)length + strlen(name);
  size_t mark = begin_group(writer, TAG_XATTR);
  put_string(writer, TAG_NAME, name + strlen(attribute_prefix));
  put_bytes(writer, TAG_VALUE, value, (size_t)length);
  end_group(writer, mark);
}

static void put_attributes(struct writer *writer, const char *path) {
  char names[XATTR_LIST_MAX];
  size_t budget = MAX_ATTRIBUTE_BYTES;
  ssize_t length = listxattr(path, names, sizeof names);
  for (const char *name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
    if (strncmp(name, attribute_prefix, strlen(attribute_prefix)) == 0) put_attribute(writer, path, name, &budget);
  }
}

/* Looks at the link's target. `info` stays the link's own, and the answer is false, when the link is broken. */
static bool follow(const char *path, struct stat *info, char target[PATH_MAX]) {
  struct stat real;
  if (stat(path, &real) == 0 && realpath(path, target) != NULL) {
    *info = real;
    return true;
  }
  ssize_t length = readlink(path, target, PATH_MAX - 1);
  target[length > 0 ? length : 0] = '\0';
  return false;
}

bool put_entry(struct writer *writer, struct account_book *book, const char *path) {
  bool ignored;
  return put_listed_entry(writer, book, path, &ignored);
}

bool put_listed_entry(struct writer *writer, struct account_book *book, const char *path, bool *is_folder) {
  struct stat info;
  char target[PATH_MAX];
  if (lstat(path, &info) != 0) return false;
  bool is_link = S_ISLNK(info.st_mode);
  *is_folder = S_ISDIR(info.st_mode);
  enum entry_kind kind = is_link && !follow(path, &info, target) ? ENTRY_UNKNOWN : kind_of(info.st_mode);
  size_t before = writer->length;
  size_t mark = begin_group(writer, TAG_ENTRY);
  put_string(writer, TAG_NAME, path_name(path));
  put_int(writer, TAG_KIND, kind);
  put_string(writer, TAG_PATH, path);
  put_int(writer, TAG_SIZE, (uint64_t)info.st_size);
  put_int(writer, TAG_MODE, info.st_mode & 07777);
  put_string(writer, TAG_OWNER, book_user_name(book, info.st_uid));
  put_string(writer, TAG_GROUP, book_group_name(book, info.st_gid));
  put_signed(writer, TAG_MODIFIED_NS, (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec);
  if (is_link) put_string(writer, TAG_LINK_TARGET, target);
  if (kind != ENTRY_UNKNOWN) put_attributes(writer, path);
  end_group(writer, mark);
  if (!writer->overflow) return true;
  writer->length = before;
  writer->overflow = false;
  errno = EOVERFLOW;
  return false;
}

void finish_with_entry(struct stream *stream, const char *path) {
  const struct file_room *room = stream->room;
  struct writer *scratch = &stream->table->scratch;
  writer_start(scratch, 0);
  if (put_entry(scratch, &room->accounts->book, path)) {
    stream_finish_with_scratch(stream, STATUS_OK);
  } else {
    stream_fail_errno(stream, errno, path, "cannot look at");
  }
}
