/* Accounts and groups of the guest, read from /etc/passwd and /etc/group without NSS. */
#ifndef FIRKIN_USERS_H
#define FIRKIN_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { ACCOUNT_NAME_BYTES = 256, ACCOUNT_HOME_BYTES = 1024, ACCOUNT_SHELL_BYTES = 256, MAX_GROUPS = 256 };

struct account {
  char name[ACCOUNT_NAME_BYTES];
  char home[ACCOUNT_HOME_BYTES];
  char shell[ACCOUNT_SHELL_BYTES];
  uid_t uid;
  gid_t gid;
};

/* The text of one of the two files as it was last read. */
struct account_file {
  const char *path;
  char *text;
  size_t length;
  ino_t inode;
  off_t size;
  struct timespec changed;
};

/* The name found last: neighbours mostly have the same owner. */
struct name_memory {
  bool valid;
  uint32_t id;
  char name[ACCOUNT_NAME_BYTES];
};

struct account_book {
  bool expired;
  struct account_file passwd;
  struct account_file group;
  struct name_memory last_user;
  struct name_memory last_group;
};

void accounts_start(struct account_book *book);
void accounts_stop(struct account_book *book);

/* Whoever looks something up next reads the files again if they have changed: most requests ask for nobody. */
void accounts_expire(struct account_book *book);

/* An account by its name or, if no such name is there, its number. */
bool accounts_find(struct account_book *book, const char *name, struct account *account);

/* The account's group and those that list it; returns how many were written to `groups` (MAX_GROUPS of them at most). */
size_t accounts_groups(struct account_book *book, const struct account *account, gid_t *groups);

/* Name of a user or group, or the number in digits; good until the next call. */
const char *accounts_user_name(struct account_book *book, uid_t uid);
const char *accounts_group_name(struct account_book *book, gid_t gid);

/* Gives a file to the account. True as well when the agent is not root and so cannot. */
bool give_to(int folder_fd, const char *path, const struct account *account);

#endif
