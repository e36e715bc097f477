/* The network interfaces of a VM and their addresses. */
#ifndef FIRKIN_NETWORK_H
#define FIRKIN_NETWORK_H

#include <stdbool.h>

void network_start_loopback(void);

/* Makes the address the guest's name server. */
bool network_write_resolver(const char *dns);

/*
 * Sets eth0 up as `ADDRESS/PREFIX[,GATEWAY[,DNS]]` says (IPv4) and writes /etc/resolv.conf. Failures go to the console.
 */
void network_start(const char *plan);

#endif
