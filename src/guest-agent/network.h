/* Addresses of a VM's network interfaces. */
#ifndef FIRKIN_NETWORK_H
#define FIRKIN_NETWORK_H

void network_start_loopback(void);

/* Gives eth0 what `ADDRESS/PREFIX[,GATEWAY[,DNS]]` says (IPv4) and writes /etc/resolv.conf. Trouble is said on the console. */
void network_start(const char *plan);

#endif
