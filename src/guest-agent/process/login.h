/* The variables that a login gets: those of /etc/environment. */
#ifndef FIRKIN_PROCESS_LOGIN_H
#define FIRKIN_PROCESS_LOGIN_H

#include "base/string_list.h"

/* Adds the variables, in place of earlier ones with the same names. False when memory is short. */
bool add_login_variables(struct string_list *environment);

#endif
