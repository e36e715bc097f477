/* What the agent does as the init process of a VM before it serves. */
#ifndef FIRKIN_BOOT_H
#define FIRKIN_BOOT_H

/* From initramfs to a mounted, networked system. Powers the machine off if that cannot be. */
void boot(void);

/* A line on the console. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
