/* Settings: the defaults that hold until SETUP names others. */
#include "accounts/settings.h"

void settings_start(struct settings *settings) { *settings = (struct settings){.default_user = "root"}; }

void settings_stop(struct settings *settings) { list_clear(&settings->env); }
