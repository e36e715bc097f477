/*
 * `own FOLDER FIRST` gives everything in FOLDER to other users: what is user N's and group N's becomes FIRST + N's. The
 * set-user-ID bits, which the kernel takes away on such a change, are set again. An image may have users that a box
 * does not have: one of them plus FIRST could be anybody on the host. Devices of an image are removed: here they would
 * be those of the host, and in a box /dev has its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <ftw.h>
#include <search.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* As in box.c. */
enum { OPEN_FOLDERS = 32, USERS = 65536 };

static unsigned first;
/* Inodes of files with several names, which were given away by one of these. */
static void *given_away;

static int compare_inodes(const void *one, const void *other) {
  uintptr_t a = (uintptr_t)one, b = (uintptr_t)other;
  return (a > b) - (a < b);
}

/* Whether the file was met under another of its names. All of the folder is on one file system. */
static bool is_given_away(const struct stat *found) {
  if (found->st_nlink < 2 || S_ISDIR(found->st_mode)) return false;
  const void *inode = (const void *)(uintptr_t)found->st_ino;
  if (tfind(inode, &given_away, compare_inodes)) return true;
  tsearch(inode, &given_away, compare_inodes);
  return false;
}

static int own(const char *path, const struct stat *found, int kind, struct FTW *place) {
  (void)kind;
  (void)place;
  if (S_ISBLK(found->st_mode) || S_ISCHR(found->st_mode)) return unlink(path);
  if (is_given_away(found)) return 0;
  if (found->st_uid >= USERS || found->st_gid >= USERS) {
    errno = EOVERFLOW;
    fprintf(stderr, "%s: owners beyond %d are not supported by this engine\n", path, USERS - 1);
    return -1;
  }
  if (lchown(path, found->st_uid + first, found->st_gid + first)) return -1;
  return S_ISLNK(found->st_mode) || !(found->st_mode & 06000) ? 0 : chmod(path, found->st_mode & 07777);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  first = (unsigned)strtoul(arguments[2], NULL, 10);
  if (nftw(arguments[1], own, OPEN_FOLDERS, FTW_PHYS) == 0) return 0;
  perror(arguments[1]);
  return 1;
}
