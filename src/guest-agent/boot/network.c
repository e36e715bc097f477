/* The network interfaces, set up by ioctl because no other program in the guest does it. */
#include "boot/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/small_file.h"
#include "boot/console.h"

static const char interface_name[] = "eth0";

static struct sockaddr_in to_address(in_addr_t address) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = address};
}

static bool bring_up(int fd, const char *name) {
  struct ifreq request = {0};
  strcpy(request.ifr_name, name);
  if (ioctl(fd, SIOCGIFFLAGS, &request) != 0) return false;
  request.ifr_flags = (short)(request.ifr_flags | IFF_UP | IFF_RUNNING);
  return ioctl(fd, SIOCSIFFLAGS, &request) == 0;
}

static bool set_address(int fd, unsigned long what, in_addr_t address) {
  struct ifreq request = {0};
  struct sockaddr_in value = to_address(address);
  strcpy(request.ifr_name, interface_name);
  memcpy(&request.ifr_addr, &value, sizeof value);
  return ioctl(fd, what, &request) == 0;
}

static bool set_gateway(int fd, in_addr_t gateway) {
  struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
  struct sockaddr_in any = to_address(INADDR_ANY), via = to_address(gateway);
  memcpy(&route.rt_dst, &any, sizeof any);
  memcpy(&route.rt_genmask, &any, sizeof any);
  memcpy(&route.rt_gateway, &via, sizeof via);
  return ioctl(fd, SIOCADDRT, &route) == 0 || errno == EEXIST;
}

static bool parse_address(const char *text, in_addr_t *address) {
  struct in_addr parsed;
  if (text == NULL || inet_pton(AF_INET, text, &parsed) != 1) return false;
  *address = parsed.s_addr;
  return true;
}

bool network_write_resolver(const char *dns) {
  char text[128];
  int length = snprintf(text, sizeof text, "nameserver %s\n", dns);
  return put_file("/etc/resolv.conf", text, (size_t)length, 0644);
}

static bool configure(int fd, in_addr_t address, unsigned prefix, const char *gateway_text, const char *dns) {
  in_addr_t gateway = 0, ignored;
  in_addr_t mask = prefix == 0 ? 0 : htonl(UINT32_MAX << (32 - prefix));
  errno = EINVAL;
  if (gateway_text != NULL && !parse_address(gateway_text, &gateway)) return false;
  if (dns != NULL && !parse_address(dns, &ignored)) return false;
  if (!set_address(fd, SIOCSIFADDR, address) || !set_address(fd, SIOCSIFNETMASK, mask)) return false;
  if (!bring_up(fd, interface_name)) return false;
  if (gateway_text != NULL && !set_gateway(fd, gateway)) return false;
  return dns == NULL || network_write_resolver(dns);
}

void network_start_loopback(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || !bring_up(fd, "lo")) say("cannot bring up lo: %s", strerror(errno));
  if (fd >= 0) close(fd);
}

void network_start(const char *plan) {
  char text[256];
  char *rest = text;
  snprintf(text, sizeof text, "%s", plan);
  char *address_text = strsep(&rest, ",");
  const char *gateway = strsep(&rest, ",");
  const char *dns = strsep(&rest, ",");
  char *slash = strchr(address_text, '/');
  if (slash != NULL) *slash = '\0';
  unsigned long prefix = slash == NULL ? 32 : strtoul(slash + 1, NULL, 10);
  in_addr_t address;
  if (!parse_address(address_text, &address) || prefix > 32) {
    say("firkin.net=%s makes no sense", plan);
    return;
  }
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || !configure(fd, address, (unsigned)prefix, gateway, dns)) {
    say("cannot set up %s: %s", interface_name, strerror(errno));
  }
  if (fd >= 0) close(fd);
}
