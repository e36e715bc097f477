/* The account book: the guest's users and groups, read from /etc/passwd and /etc/group without NSS. */
#ifndef FIRKIN_ACCOUNT_BOOK_H
#define FIRKIN_ACCOUNT_BOOK_H

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

/* The text of one of the two files, as it was when last read. */
struct account_file {
  const char *path;
  char *text;
  size_t length;
  ino_t inode;
  off_t size;
  struct timespec changed;
};

/* The name that was found last. It is asked for again often, because neighbouring files mostly have the same owner. */
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

void book_start(struct account_book *book);
void book_stop(struct account_book *book);

/*
 * Makes the next look-up read the files again if they have changed. Looking is left to that moment because most
 * requests look nobody up.
 */
void book_expire(struct account_book *book);

/* Finds an account by its name or, if no account has that name, by its number. */
bool book_find(struct account_book *book, const char *name, struct account *account);

/* Writes the account's group and the groups that list it to `groups`; returns their number, at most MAX_GROUPS. */
size_t book_groups(struct account_book *book, const struct account *account, gid_t *groups);

/* The name of a user or group, or the number in digits. The string is good until the next call. */
const char *book_user_name(struct account_book *book, uid_t uid);
const char *book_group_name(struct account_book *book, gid_t gid);

/* Gives a file to the account. True also when the agent is not root and therefore cannot. */
bool give_to(int folder_fd, const char *path, const struct account *account);

#endif
