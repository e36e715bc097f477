/*
 * The packet guard stands between a VM's network device and passt, which it starts for the first frame that may pass,
 * and ends. Usage: packet-guard on|off GUEST DNS PASST ARGUMENT…
 *
 * passt connects wherever a frame says, and a guest that is root sends any frame it likes. The guard lets frames
 * through that go to the internet. Nothing goes to the host itself, under any of its addresses, or to private networks.
 * The address DNS, where passt answers, gets questions about names only. TCP to any other place is refused at once, and
 * all else is dropped.
 *
 * SIGUSR1 switches the network on. SIGUSR2 switches it off, and then passt ends, and with it every open connection. The
 * name of the process (network-on, network-off) tells which of the two holds, as soon as it holds. A passt that ended
 * by itself is replaced by the next frame that may pass, and the guest's open connections are reset. How often that
 * happened follows in the name: `network-on 2`.
 *
 * It is started in the jail, which has taken every privilege from it.
 *
 * Descriptor 3 is the VM's side: each frame is its length as u32 (big-endian) and the Ethernet frame. The guard ends
 * when the VM ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  VM_SIDE = 3,
  PASST_SOCKET = 3, /* the descriptor in passt itself */
  GIVEN_PAIR = 5,   /* after the side of the VM and the report of the jail */
  ETHERNET_HEADER = 14,
  IPV4_HEADER = 20,
  TCP_HEADER = 20,
  TCP = 6,
  UDP = 17,
  DNS_PORT = 53,
  MAX_FRAME = 68 * 1024, /* the limit of QEMU itself */
  BUFFER = 4 * (MAX_FRAME + 4),
  PASST_SEND_BYTES = 8 * 1024 * 1024,
  FLOWS = 1024,
  MAX_ENDS = 1000, /* the name has room for three digits */
  FIN = 1,
  SYN = 2,
  RST = 4,
  ACK = 16,
};

/* A TCP connection of the guest. */
struct flow {
  uint8_t guest_mac[6];
  uint16_t guest_port, port;
  uint32_t address;
  uint32_t acknowledged; /* the byte that the guest expects next */
  uint16_t payload;      /* of the present segment, with its header */
  bool is_open;
};

/* Frames on their way to one side. */
struct pipe_buffer {
  uint8_t bytes[BUFFER];
  size_t begun;   /* bytes at the front of a frame that was sent in part */
  size_t checked; /* bytes that may be sent on: whole frames, after `begun` */
  size_t filled;  /* bytes received; those from `checked` on are a frame that is not complete */
};

static struct pipe_buffer outgoing, incoming;
static struct flow flows[FLOWS];
static const uint8_t router_mac[6] = {0x52, 0x54, 0, 0, 0, 1};
static uint32_t guest_address, dns_address;
static int network_side, passt_side;
static char **passt_command;
static pid_t passt; /* 0: passt does not run */
static time_t passt_started_at = -1;
static unsigned passt_ends; /* by itself */
static bool is_on;
static sigset_t signals_before;
static volatile sig_atomic_t is_wanted, has_child_ended;

/*
 * Networks that are never the internet, most of which E2B always denies: this network, private, shared, loopback,
 * link-local, multicast.
 */
static const struct {
  uint32_t network;
  int prefix;
} denied[] = {
    {0x00000000, 8},
    {0x0a000000, 8},
    {0x64400000, 10},
    {0x7f000000, 8},
    {0xa9fe0000, 16},
    {0xac100000, 12},
    {0xc0a80000, 16},
    {0xe0000000, 4},
    {0xf0000000, 4},
    /* protocol assignments (a cloud's metadata among them), benchmarks, a cloud's host */
    {0xc0000000, 24},
    {0xc6120000, 15},
    {0xa83f8110, 32},
};

static time_t now_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec;
}

static uint32_t read_u32(const uint8_t *bytes) {
  uint32_t value;
  memcpy(&value, bytes, sizeof value);
  return ntohl(value);
}

static uint16_t read_u16(const uint8_t *bytes) { return (uint16_t)(bytes[0] << 8 | bytes[1]); }

static void write_u32(uint8_t *bytes, uint32_t value) {
  value = htonl(value);
  memcpy(bytes, &value, sizeof value);
}

static void write_u16(uint8_t *bytes, uint16_t value) {
  bytes[0] = (uint8_t)(value >> 8);
  bytes[1] = (uint8_t)value;
}

/* True when the address is one of the host's, as they were at most a second ago, or when these cannot be read. */
static bool is_hosts_own(uint32_t address) {
  static struct ifaddrs *interfaces;
  static time_t looked_at = -1;
  time_t now = now_seconds();
  if (!interfaces || now != looked_at) {
    freeifaddrs(interfaces);
    interfaces = NULL;
    if (getifaddrs(&interfaces)) return true;
    looked_at = now;
  }
  for (struct ifaddrs *one = interfaces; one; one = one->ifa_next) {
    if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET) continue;
    struct sockaddr_in found;
    memcpy(&found, one->ifa_addr, sizeof found);
    if (ntohl(found.sin_addr.s_addr) == address) return true;
  }
  return false;
}

static bool is_denied(uint32_t address) {
  for (size_t i = 0; i < sizeof denied / sizeof *denied; i++) {
    if ((address ^ denied[i].network) >> (32 - denied[i].prefix) == 0) return true;
  }
  return is_hosts_own(address);
}

/* True for a whole packet of TCP or UDP, which holds its ports. */
static bool has_ports(const uint8_t *ip, size_t length) {
  size_t header = (size_t)(ip[0] & 15) * 4;
  bool is_fragment = (read_u16(ip + 6) & 0x3fff) != 0;
  return !is_fragment && (ip[9] == TCP || ip[9] == UDP) && header >= IPV4_HEADER && length >= header + 4;
}

/* True for IPv4 from the guest's own address to the internet or to the name server, and for the ARP that this needs. */
static bool may_pass(const uint8_t *frame, size_t length) {
  if (!is_on || length < ETHERNET_HEADER) return false;
  uint16_t type = read_u16(frame + 12);
  if (type == 0x0806) return true;
  if (type != 0x0800 || length < ETHERNET_HEADER + IPV4_HEADER) return false;
  const uint8_t *ip = frame + ETHERNET_HEADER;
  if (ip[0] >> 4 != 4 || read_u32(ip + 12) != guest_address) return false;
  uint32_t destination = read_u32(ip + 16);
  if (destination != dns_address) return !is_denied(destination);
  return has_ports(ip, length - ETHERNET_HEADER) && read_u16(ip + (ip[0] & 15) * 4 + 2) == DNS_PORT;
}

static uint16_t checksum(uint32_t sum, const uint8_t *bytes, size_t length) {
  for (size_t i = 0; i < length; i += 2) sum += read_u16(bytes + i);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

/* Puts a whole frame, with its length, behind the frames that wait for the VM. */
static void tell_vm(const uint8_t *bytes, size_t length) {
  if (incoming.filled + length > BUFFER) return;
  uint8_t *end = incoming.bytes + incoming.checked;
  memmove(end + length, end, incoming.filled - incoming.checked);
  memcpy(end, bytes, length);
  incoming.checked += length;
  incoming.filled += length;
}

/* Tells the guest, in the name of the other end, that a connection is over. */
static void tell_reset(const struct flow *flow, uint32_t sequence, uint32_t acknowledged, uint8_t flags) {
  uint8_t reply[4 + ETHERNET_HEADER + IPV4_HEADER + TCP_HEADER] = {0};
  uint8_t *ethernet = reply + 4, *ip = ethernet + ETHERNET_HEADER, *tcp = ip + IPV4_HEADER;
  write_u32(reply, sizeof reply - 4);
  memcpy(ethernet, flow->guest_mac, 6);
  memcpy(ethernet + 6, router_mac, 6);
  write_u16(ethernet + 12, 0x0800);
  ip[0] = 0x45;
  write_u16(ip + 2, IPV4_HEADER + TCP_HEADER);
  ip[8] = 64;
  ip[9] = TCP;
  write_u32(ip + 12, flow->address);
  write_u32(ip + 16, guest_address);
  write_u16(ip + 10, checksum(0, ip, IPV4_HEADER));
  write_u16(tcp, flow->port);
  write_u16(tcp + 2, flow->guest_port);
  write_u32(tcp + 4, sequence);
  write_u32(tcp + 8, acknowledged);
  tcp[12] = TCP_HEADER / 4 << 4;
  tcp[13] = flags;
  uint32_t pseudo = TCP + TCP_HEADER;
  for (size_t i = 12; i < IPV4_HEADER; i += 2) pseudo += read_u16(ip + i);
  write_u16(tcp + 16, checksum(pseudo, tcp, TCP_HEADER));
  tell_vm(reply, sizeof reply);
}

/* Finds a whole segment of TCP from the guest's own address. NULL when the frame holds none. */
static const uint8_t *find_segment(const uint8_t *frame, size_t length, struct flow *flow) {
  const uint8_t *ip = frame + ETHERNET_HEADER;
  if (length < ETHERNET_HEADER + IPV4_HEADER + TCP_HEADER || read_u16(frame + 12) != 0x0800 || ip[9] != TCP)
    return NULL;
  size_t header = (size_t)(ip[0] & 15) * 4, total = read_u16(ip + 2);
  if (!has_ports(ip, length - ETHERNET_HEADER) || read_u32(ip + 12) != guest_address) return NULL;
  if (total < header + TCP_HEADER || total > length - ETHERNET_HEADER) return NULL;
  const uint8_t *tcp = ip + header;
  memcpy(flow->guest_mac, frame + 6, 6);
  flow->address = read_u32(ip + 16);
  flow->guest_port = read_u16(tcp);
  flow->port = read_u16(tcp + 2);
  flow->payload = (uint16_t)(total - header);
  return tcp;
}

/* Answers TCP that goes nowhere with a reset, so that programs learn at once what they would learn after minutes. */
static void refuse(const uint8_t *frame, size_t length) {
  struct flow flow;
  const uint8_t *tcp = find_segment(frame, length, &flow);
  if (!tcp || tcp[13] & RST) return;
  if (tcp[13] & ACK) return tell_reset(&flow, read_u32(tcp + 8), 0, RST);
  uint32_t consumed = (uint32_t)flow.payload - (uint32_t)(tcp[12] >> 4) * 4 + !!(tcp[13] & SYN) + !!(tcp[13] & FIN);
  tell_reset(&flow, 0, read_u32(tcp + 4) + consumed, RST | ACK);
}

/* Remembers the progress of a connection, for its end. Of two connections that share a slot, one is forgotten. */
static void remember(const uint8_t *frame, size_t length) {
  struct flow flow;
  const uint8_t *tcp = find_segment(frame, length, &flow);
  if (!tcp || !(tcp[13] & ACK)) return;
  flow.acknowledged = read_u32(tcp + 8);
  flow.is_open = !(tcp[13] & RST);
  flows[(flow.address ^ flow.guest_port * 31u ^ flow.port) % FLOWS] = flow;
}

/* Resets open connections, because one that only waits for bytes would not notice that its other end is gone. */
static void end_flows(void) {
  for (struct flow *flow = flows; flow < flows + FLOWS; flow++) {
    if (flow->is_open) tell_reset(flow, flow->acknowledged, 0, RST);
    flow->is_open = false;
  }
}

/* Adds every complete frame to those that may be sent. A frame of the VM is cut out if it may not pass. */
static bool check_frames(struct pipe_buffer *buffer) {
  while (buffer->filled - buffer->checked >= 4) {
    uint8_t *head = buffer->bytes + buffer->checked;
    size_t length = read_u32(head);
    if (length > MAX_FRAME) return false;
    size_t rest = buffer->filled - buffer->checked - 4;
    if (rest < length) return true;
    bool is_vms = buffer == &outgoing;
    if (!is_vms || may_pass(head + 4, length)) {
      if (is_vms) remember(head + 4, length);
      buffer->checked += 4 + length;
    } else {
      refuse(head + 4, length);
      memmove(head, head + 4 + length, rest - length);
      buffer->filled -= 4 + length;
    }
  }
  return true;
}

/* False when the sender is gone. */
static bool receive(int from, struct pipe_buffer *buffer) {
  ssize_t count = read(from, buffer->bytes + buffer->filled, BUFFER - buffer->filled);
  if (count > 0) buffer->filled += (size_t)count;
  return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
}

/* False when the receiver is gone. */
static bool send_on(int to, struct pipe_buffer *buffer) {
  ssize_t count = write(to, buffer->bytes, buffer->checked);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  size_t sent = (size_t)count, next = buffer->begun;
  while (next < sent) next += 4 + read_u32(buffer->bytes + next);
  buffer->begun = next - sent;
  memmove(buffer->bytes, buffer->bytes + sent, buffer->filled - sent);
  buffer->filled -= sent;
  buffer->checked -= sent;
  return true;
}

/* Names the process after the state of the network. */
static void announce(void) {
  char name[16];
  const char *state = is_on ? "network-on" : "network-off";
  if (passt_ends)
    snprintf(name, sizeof name, "%s %u", state, passt_ends % MAX_ENDS);
  else
    snprintf(name, sizeof name, "%s", state);
  prctl(PR_SET_NAME, name, 0, 0, 0);
}

static void switch_on(void) {
  is_on = true;
  announce();
}

/*
 * Starts passt on a blocking socket, because it loses half frames on another. Earlier frames wait in that socket. False
 * when it cannot be started, or was started less than a second ago: one that ends at once must keep nobody busy.
 */
static bool start_passt(void) {
  time_t now = now_seconds();
  if (passt_started_at >= 0 && now <= passt_started_at) return false;
  passt_started_at = now;
  pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &signals_before, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(passt_side, PASST_SOCKET) == PASST_SOCKET) execv(passt_command[0], passt_command);
    _exit(127);
  }
  passt = child;
  return true;
}

static void end_passt(void) {
  if (passt <= 0) return;
  kill(passt, SIGKILL);
  while (waitpid(passt, NULL, 0) < 0 && errno == EINTR) {}
  passt = 0;
}

/* Frames that nobody takes are lost, as in any network. */
static void discard_outgoing(void) {
  memmove(outgoing.bytes, outgoing.bytes + outgoing.checked, outgoing.filled - outgoing.checked);
  outgoing.filled -= outgoing.checked;
  outgoing.checked = outgoing.begun = 0;
}

/* No frame under way is left to a later passt, but the VM gets the rest of a frame that it has in part. */
static void forget_passt(void) {
  static uint8_t discarded[MAX_FRAME];
  while (recv(network_side, discarded, sizeof discarded, MSG_DONTWAIT) > 0) {}
  while (recv(passt_side, discarded, sizeof discarded, MSG_DONTWAIT) > 0) {}
  incoming.checked = incoming.filled = incoming.begun;
  discard_outgoing();
  end_flows();
}

static void switch_off(void) {
  is_on = false;
  end_passt();
  forget_passt();
  passt_started_at = -1;
  announce();
}

/* Notices a passt that ended by itself. */
static void look_after_passt(void) {
  int how;
  if (!passt || waitpid(passt, &how, WNOHANG) != passt) return;
  passt = 0;
  passt_ends++;
  forget_passt();
  announce();
  const char *cause = WIFSIGNALED(how) ? "signal" : "status";
  int value = WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how);
  dprintf(STDERR_FILENO, "passt ended with %s %d; it is started again when it is needed\n", cause, value);
}

static void on_signal(int signal) {
  if (signal == SIGCHLD) {
    has_child_ended = true;
  } else {
    is_wanted = signal == SIGUSR1;
  }
}

/* Lets signals come only while the guard waits, which is between two frames. */
static void take_signals(void) {
  sigset_t ours;
  sigemptyset(&ours);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NOCLDSTOP};
  for (const int *one = (const int[]){SIGUSR1, SIGUSR2, SIGCHLD, 0}; *one; one++) {
    sigaddset(&ours, *one);
    sigaction(*one, &action, NULL);
  }
  sigprocmask(SIG_BLOCK, &ours, &signals_before);
  signal(SIGPIPE, SIG_IGN);
}

/*
 * Joins both sides, with a large buffer for passt's frames, because a socket with the system's buffer costs nine tenths
 * of the speed. The jail hands over a pair that has more than the system's limit, for which it takes a right that the
 * guard lacks.
 */
static bool join_sides(void) {
  const int bytes = PASST_SEND_BYTES;
  int sides[2];
  struct stat found;
  bool has_pair = !fstat(GIVEN_PAIR, &found) && S_ISSOCK(found.st_mode);
  if (has_pair) {
    sides[0] = GIVEN_PAIR;
    sides[1] = GIVEN_PAIR + 1;
    if (fcntl(sides[0], F_SETFD, FD_CLOEXEC) || fcntl(sides[1], F_SETFD, FD_CLOEXEC)) return false;
  } else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sides)) {
    return false;
  }
  network_side = sides[0];
  passt_side = sides[1];
  if (!has_pair && setsockopt(passt_side, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes)) {
    setsockopt(passt_side, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
  return !fcntl(VM_SIDE, F_SETFL, O_NONBLOCK) && !fcntl(network_side, F_SETFL, O_NONBLOCK);
}

/* Waits for frames or a signal, and moves frames. False when a side has closed. */
static bool move_frames(void) {
  struct pollfd sides[2] = {
      {.fd = VM_SIDE, .events = (short)((outgoing.filled < BUFFER ? POLLIN : 0) | (incoming.checked ? POLLOUT : 0))},
      {.fd = network_side,
       .events = (short)((incoming.filled < BUFFER ? POLLIN : 0) | (outgoing.checked ? POLLOUT : 0))},
  };
  if (ppoll(sides, 2, NULL, &signals_before) < 0) return errno == EINTR;
  if ((sides[0].revents | sides[1].revents) & (POLLERR | POLLNVAL)) return false;
  if (sides[0].revents & (POLLIN | POLLHUP)) {
    if (!receive(VM_SIDE, &outgoing) || !check_frames(&outgoing)) return false;
  }
  if (sides[1].revents & (POLLIN | POLLHUP)) {
    if (!receive(network_side, &incoming) || !check_frames(&incoming)) return false;
  }
  if (outgoing.checked && !passt && !start_passt()) discard_outgoing();
  if (outgoing.checked && !send_on(network_side, &outgoing)) return false;
  return !incoming.checked || send_on(VM_SIDE, &incoming);
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  is_wanted = !strcmp(argv[1], "on");
  guest_address = ntohl(inet_addr(argv[2]));
  dns_address = ntohl(inet_addr(argv[3]));
  passt_command = argv + 4;
  take_signals();
  if (!join_sides()) return 1;
  announce();
  for (;;) {
    if (has_child_ended) {
      has_child_ended = false;
      look_after_passt();
    }
    if (is_wanted && !is_on) switch_on();
    if (!is_wanted && is_on) switch_off();
    if (!move_frames()) break;
  }
  end_passt();
  return 0;
}
