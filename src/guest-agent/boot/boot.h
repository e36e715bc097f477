/*
 * The room `boot` turns a bare machine into one that can serve: modules, root disk, mounts, host name, network. It may
 * call `base` alone.
 *
 * This file: the boot of process 1.
 */
#ifndef FIRKIN_BOOT_H
#define FIRKIN_BOOT_H

/* Goes from the initramfs to a mounted, networked system. Powers the machine off when there is no root disk. */
void boot(void);

/* The little that is left to do where gVisor has made the machine. `dns` may be NULL. */
void boot_gvisor(const char *dns);

#endif
