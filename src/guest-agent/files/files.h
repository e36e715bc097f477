/*
 * The room `files` holds the operations on the guest's file system. It may call `base`, `link` and `accounts`.
 *
 * This file: the state that its operations share, which is the room of their streams.
 */
#ifndef FIRKIN_FILES_H
#define FIRKIN_FILES_H

#include "accounts/accounts.h"
#include "base/loop.h"

struct file_room {
  struct loop *loop;
  struct accounts *accounts;
};

#endif
