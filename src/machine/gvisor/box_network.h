/*
 * The network of a box: a pair of interfaces, of which gVisor takes over the one that has an address. Frames go in and
 * out by a packet socket on the other.
 */
#ifndef FIRKIN_BOX_NETWORK_H
#define FIRKIN_BOX_NETWORK_H

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "../jail/launcher.h"

#define GUEST_END "eth0"
#define WIRE_END "wire"

enum { WIRE_BYTES = 4 << 20 };

static const unsigned char guest_mac[6] = {0x52, 0x54, 0, 0, 0, 2};

struct request {
  struct nlmsghdr header;
  struct ifinfomsg info;
  char attributes[512];
};

static struct rtattr *begin_attribute(struct request *request, unsigned short type, const void *value, size_t length) {
  struct rtattr *attribute = (void *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = (unsigned short)RTA_LENGTH(length);
  if (length > 0) memcpy(RTA_DATA(attribute), value, length);
  request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (unsigned)RTA_SPACE(length);
  return attribute;
}

static void end_attribute(struct request *request, struct rtattr *attribute) {
  attribute->rta_len = (unsigned short)((char *)request + request->header.nlmsg_len - (char *)attribute);
}

static void make_pair(void) {
  static const char kind[] = "veth";
  struct request request = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
                                       .nlmsg_type = RTM_NEWLINK,
                                       .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL}};
  struct {
    struct nlmsghdr header;
    struct nlmsgerr error;
    char rest[1024];
  } answer;
  begin_attribute(&request, IFLA_IFNAME, GUEST_END, sizeof GUEST_END);
  begin_attribute(&request, IFLA_ADDRESS, guest_mac, sizeof guest_mac);
  struct rtattr *link = begin_attribute(&request, IFLA_LINKINFO, NULL, 0);
  begin_attribute(&request, IFLA_INFO_KIND, kind, sizeof kind - 1);
  struct rtattr *data = begin_attribute(&request, IFLA_INFO_DATA, NULL, 0);
  struct ifinfomsg none = {0};
  struct rtattr *peer = begin_attribute(&request, VETH_INFO_PEER, &none, sizeof none);
  begin_attribute(&request, IFLA_IFNAME, WIRE_END, sizeof WIRE_END);
  end_attribute(&request, peer);
  end_attribute(&request, data);
  end_attribute(&request, link);
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0 || send(fd, &request, request.header.nlmsg_len, 0) < 0) fail("a pair of interfaces");
  if (recv(fd, &answer, sizeof answer, 0) < (ssize_t)NLMSG_LENGTH(sizeof answer.error)) fail("a pair of interfaces");
  errno = -answer.error.error;
  if (answer.error.error) fail("a pair of interfaces");
  close(fd);
}

/* Otherwise both ends get addresses of their own, and gVisor takes over both. */
static void keep_to_ipv4(void) {
  int file = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
  if (file < 0 && errno == ENOENT) return;
  if (file < 0 || write(file, "1", 1) != 1) fail("IPv4 alone");
  close(file);
}

static void bring_up(int fd, const char *name) {
  struct ifreq request = {0};
  strcpy(request.ifr_name, name);
  if (ioctl(fd, SIOCGIFFLAGS, &request)) fail("interface %s", name);
  request.ifr_flags = (short)(request.ifr_flags | IFF_UP | IFF_RUNNING);
  if (ioctl(fd, SIOCSIFFLAGS, &request)) fail("interface %s", name);
}

static void set_address(int fd, unsigned long what, in_addr_t address) {
  struct ifreq request = {.ifr_name = GUEST_END};
  struct sockaddr_in value = {.sin_family = AF_INET, .sin_addr.s_addr = address};
  memcpy(&request.ifr_addr, &value, sizeof value);
  if (ioctl(fd, what, &request)) fail("address of " GUEST_END);
}

static void set_gateway(int fd, in_addr_t gateway) {
  struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
  struct sockaddr_in any = {.sin_family = AF_INET}, via = {.sin_family = AF_INET, .sin_addr.s_addr = gateway};
  memcpy(&route.rt_dst, &any, sizeof any);
  memcpy(&route.rt_genmask, &any, sizeof any);
  memcpy(&route.rt_gateway, &via, sizeof via);
  if (ioctl(fd, SIOCADDRT, &route)) fail("gateway");
}

/* A socket that gets the frames which the guest sends, as descriptor `wanted`. */
static void open_wire(int wanted) {
  int bytes = WIRE_BYTES, yes = 1;
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
  address.sll_ifindex = (int)if_nametoindex(WIRE_END);
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
  if (fd < 0) fail("packet socket");
  if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof yes)) fail("incoming packets only");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  if (bind(fd, (const void *)&address, sizeof address)) fail("packets of " WIRE_END);
  if (fd == wanted) return;
  if (dup2(fd, wanted) < 0) fail("descriptor %d", wanted);
  close(fd);
}

/* @param plan `ADDRESS/PREFIX,GATEWAY` */
static void open_network(const char *plan, int wanted) {
  char address[32], gateway[32];
  unsigned prefix;
  errno = EINVAL;
  if (sscanf(plan, "%31[0-9.]/%u,%31[0-9.]", address, &prefix, gateway) != 3 || prefix < 1 || prefix > 32)
    fail("network %s", plan);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  bring_up(fd, "lo");
  keep_to_ipv4();
  make_pair();
  bring_up(fd, WIRE_END);
  set_address(fd, SIOCSIFADDR, inet_addr(address));
  set_address(fd, SIOCSIFNETMASK, htonl(UINT32_MAX << (32 - prefix)));
  bring_up(fd, GUEST_END);
  set_gateway(fd, inet_addr(gateway));
  close(fd);
  open_wire(wanted);
}

#endif
