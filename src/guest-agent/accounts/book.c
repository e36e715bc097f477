/*
 * The account book. Its files belong to the guest, so malformed lines are skipped and a file over 4 MiB counts as
 * empty.
 */
#include "accounts/book.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 4 << 20, PASSWD_COLUMNS = 7, GROUP_COLUMNS = 4 };

struct column {
  const char *start;
  size_t length;
};

void book_start(struct account_book *book) {
  *book = (struct account_book){.passwd.path = "/etc/passwd", .group.path = "/etc/group", .expired = true};
}

static void forget(struct account_file *file) {
  free(file->text);
  file->text = NULL;
  file->length = 0;
}

void book_stop(struct account_book *book) {
  forget(&book->passwd);
  forget(&book->group);
}

static void load(struct account_file *file, int fd, size_t size) {
  forget(file);
  if (size > MAX_FILE_BYTES) return;
  file->text = malloc(size + 1);
  if (file->text == NULL) return;
  ssize_t count = 0;
  while (file->length < size && (count = read(fd, file->text + file->length, size - file->length)) > 0) {
    file->length += (size_t)count;
  }
}

static void read_again(struct account_file *file) {
  struct stat now;
  int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &now) != 0 || !S_ISREG(now.st_mode)) {
    forget(file);
    file->inode = 0;
  } else {
    file->inode = now.st_ino;
    file->size = now.st_size;
    file->changed = now.st_mtim;
    load(file, fd, (size_t)now.st_size);
  }
  if (fd >= 0) close(fd);
}

static bool has_changed(const struct account_file *file) {
  struct stat now;
  return stat(file->path, &now) != 0 || now.st_ino != file->inode || now.st_size != file->size ||
         now.st_mtim.tv_sec != file->changed.tv_sec || now.st_mtim.tv_nsec != file->changed.tv_nsec;
}

void book_expire(struct account_book *book) { book->expired = true; }

static void refresh(struct account_book *book) {
  if (!book->expired) return;
  book->expired = false;
  if (has_changed(&book->passwd)) read_again(&book->passwd);
  if (has_changed(&book->group)) read_again(&book->group);
  book->last_user.valid = false;
  book->last_group.valid = false;
}

/* Takes the next line with at least `wanted` columns off the text. The last column is the rest of the line. */
static bool next_line(const char **text, size_t *length, struct column *columns, size_t wanted) {
  while (*length > 0) {
    const char *end = memchr(*text, '\n', *length);
    size_t left = end == NULL ? *length : (size_t)(end - *text);
    const char *at = *text;
    *length -= end == NULL ? left : left + 1;
    *text += end == NULL ? left : left + 1;
    size_t count = 0;
    while (count < wanted) {
      const char *colon = count + 1 < wanted && left > 0 ? memchr(at, ':', left) : NULL;
      size_t width = colon == NULL ? left : (size_t)(colon - at);
      columns[count++] = (struct column){.start = at, .length = width};
      if (colon == NULL) break;
      at = colon + 1;
      left -= width + 1;
    }
    if (count == wanted) return true;
  }
  return false;
}

static bool column_is(struct column column, const char *text) {
  return column.length == strlen(text) && memcmp(column.start, text, column.length) == 0;
}

static bool column_number(struct column column, uint32_t *number) {
  uint64_t value = 0;
  if (column.length == 0 || column.length > 10) return false;
  for (size_t i = 0; i < column.length; i++) {
    if (column.start[i] < '0' || column.start[i] > '9') return false;
    value = value * 10 + (uint64_t)(column.start[i] - '0');
  }
  *number = (uint32_t)value;
  return value <= UINT32_MAX - 1;
}

static bool column_copy(struct column column, char *out, size_t size) {
  if (column.length >= size || memchr(column.start, 0, column.length) != NULL) return false;
  memcpy(out, column.start, column.length);
  out[column.length] = '\0';
  return true;
}

static bool to_account(const struct column *columns, struct account *account) {
  if (!column_number(columns[2], &account->uid) || !column_number(columns[3], &account->gid)) return false;
  if (!column_copy(columns[0], account->name, sizeof account->name)) return false;
  if (!column_copy(columns[5], account->home, sizeof account->home)) return false;
  if (!column_copy(columns[6], account->shell, sizeof account->shell)) return false;
  if (account->home[0] == '\0') strcpy(account->home, "/");
  if (account->shell[0] == '\0') strcpy(account->shell, "/bin/sh");
  return true;
}

static bool find_account(const struct account_book *book, const char *name, bool by_number, struct account *account) {
  const char *text = book->passwd.text;
  size_t length = book->passwd.length;
  struct column columns[PASSWD_COLUMNS];
  uint32_t wanted = 0;
  if (by_number && !column_number((struct column){name, strlen(name)}, &wanted)) return false;
  while (next_line(&text, &length, columns, PASSWD_COLUMNS)) {
    if (!by_number && !column_is(columns[0], name)) continue;
    if (to_account(columns, account) && (!by_number || account->uid == wanted)) return true;
  }
  return false;
}

bool book_find(struct account_book *book, const char *name, struct account *account) {
  refresh(book);
  return find_account(book, name, false, account) || find_account(book, name, true, account);
}

static bool lists_member(struct column members, const char *name) {
  size_t name_length = strlen(name);
  while (members.length > 0) {
    const char *comma = memchr(members.start, ',', members.length);
    size_t width = comma == NULL ? members.length : (size_t)(comma - members.start);
    if (width == name_length && memcmp(members.start, name, width) == 0) return true;
    if (comma == NULL) return false;
    members.start += width + 1;
    members.length -= width + 1;
  }
  return false;
}

size_t book_groups(struct account_book *book, const struct account *account, gid_t *groups) {
  refresh(book);
  const char *text = book->group.text;
  size_t length = book->group.length;
  struct column columns[GROUP_COLUMNS];
  size_t count = 0;
  groups[count++] = account->gid;
  while (count < MAX_GROUPS && next_line(&text, &length, columns, GROUP_COLUMNS)) {
    gid_t gid;
    if (!column_number(columns[2], &gid) || gid == account->gid) continue;
    if (lists_member(columns[3], account->name)) groups[count++] = gid;
  }
  return count;
}

static void find_name(const struct account_file *file, size_t columns_wanted, struct name_memory *memory) {
  const char *text = file->text;
  size_t length = file->length;
  struct column columns[PASSWD_COLUMNS];
  while (next_line(&text, &length, columns, columns_wanted)) {
    uint32_t found;
    if (!column_number(columns[2], &found) || found != memory->id) continue;
    if (column_copy(columns[0], memory->name, sizeof memory->name)) return;
  }
  snprintf(memory->name, sizeof memory->name, "%u", memory->id);
}

static const char *name_of(const struct account_file *file, size_t columns, uint32_t id, struct name_memory *memory) {
  if (!memory->valid || memory->id != id) {
    *memory = (struct name_memory){.valid = true, .id = id};
    find_name(file, columns, memory);
  }
  return memory->name;
}

const char *book_user_name(struct account_book *book, uid_t uid) {
  refresh(book);
  return name_of(&book->passwd, PASSWD_COLUMNS, uid, &book->last_user);
}

const char *book_group_name(struct account_book *book, gid_t gid) {
  refresh(book);
  return name_of(&book->group, GROUP_COLUMNS, gid, &book->last_group);
}

bool give_to(int folder_fd, const char *path, const struct account *account) {
  int flags = AT_SYMLINK_NOFOLLOW | (path[0] == '\0' ? AT_EMPTY_PATH : 0);
  if (fchownat(folder_fd, path, account->uid, account->gid, flags) == 0) return true;
  return errno == EPERM && geteuid() != 0;
}
