/*
 * The room `accounts` knows on whose behalf a request is: the guest's users and groups, SETUP's settings, and the paths
 * that follow from both. It may call `base` and `link`.
 *
 * This file: the state that `process`, `files` and `machine` share.
 */
#ifndef FIRKIN_ACCOUNTS_H
#define FIRKIN_ACCOUNTS_H

#include "accounts/book.h"
#include "accounts/settings.h"

struct accounts {
  struct account_book book;
  struct settings settings;
};

#endif
