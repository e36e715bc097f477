/*
 * `packet-guard`: stands between a VM's network device and passt, and drops what passt would carry to the host's own loopback.
 * passt connects wherever a frame says: a guest that is root can send frames to 127.0.0.1 or 0.0.0.0, and those would
 * reach services that trust the loopback (this daemon's own port among them). No passt option forbids it.
 *
 * Descriptor 3 is the VM's side, 4 is passt's. Both carry frames as u32 length (big-endian) + Ethernet frame.
 * Ends when either side closes, which ends passt too.
 *
 * `packet-guard PROGRAM ARGUMENT…`: becomes passt, with room on its socket (descriptor 3). On a socket of its own passt
 * makes that room itself; on an inherited one it does not, and throws away what does not fit: a tenth of the speed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    VM_SIDE = 3,
    NETWORK_SIDE = 4,
    ETHERNET_HEADER = 14,
    IPV4_HEADER = 20,
    MAX_FRAME = 68 * 1024, /* what QEMU itself takes at most */
    BUFFER = 4 * (MAX_FRAME + 4),
    NOBODY = 65534,
    PASST_SOCKET = 3,
    PASST_SEND_BYTES = 8 * 1024 * 1024,
};

struct pipe_buffer {
    uint8_t bytes[BUFFER];
    size_t checked; /* bytes that may be sent on */
    size_t filled;  /* bytes received; those from `checked` on are a frame that is not complete */
};

static bool is_forbidden(uint32_t address)
{
    uint32_t network = ntohl(address) >> 24;
    return network == 127 || network == 0;
}

/* IPv4 between addresses that are not the host's own loopback, and the ARP it needs. passt runs with --ipv4-only. */
static bool may_pass(const uint8_t *frame, size_t length)
{
    if (length < ETHERNET_HEADER) return false;
    uint16_t type = (uint16_t)(frame[12] << 8 | frame[13]);
    if (type == 0x0806) return true;
    if (type != 0x0800 || length < ETHERNET_HEADER + IPV4_HEADER) return false;
    uint32_t source, destination;
    memcpy(&source, frame + ETHERNET_HEADER + 12, sizeof source);
    memcpy(&destination, frame + ETHERNET_HEADER + 16, sizeof destination);
    return !is_forbidden(source) && !is_forbidden(destination);
}

/* Moves the border of what may be sent over every complete frame, cutting out those that may not. */
static bool check_frames(struct pipe_buffer *buffer)
{
    while (buffer->filled - buffer->checked >= 4) {
        uint8_t *head = buffer->bytes + buffer->checked;
        uint32_t length;
        memcpy(&length, head, sizeof length);
        length = ntohl(length);
        if (length > MAX_FRAME) return false;
        size_t rest = buffer->filled - buffer->checked - 4;
        if (rest < length) return true;
        if (may_pass(head + 4, length)) {
            buffer->checked += 4 + length;
        } else {
            memmove(head, head + 4 + length, rest - length);
            buffer->filled -= 4 + length;
        }
    }
    return true;
}

/* False when the sender is gone. */
static bool receive(int from, struct pipe_buffer *buffer)
{
    ssize_t count = read(from, buffer->bytes + buffer->filled, BUFFER - buffer->filled);
    if (count > 0) buffer->filled += (size_t)count;
    return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
}

/* False when the receiver is gone. */
static bool send_on(int to, struct pipe_buffer *buffer)
{
    ssize_t count = write(to, buffer->bytes, buffer->checked);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    memmove(buffer->bytes, buffer->bytes + count, buffer->filled - (size_t)count);
    buffer->filled -= (size_t)count;
    buffer->checked -= (size_t)count;
    return true;
}

static struct pipe_buffer outgoing, incoming;

/* Beyond the system's limit only as root; otherwise as much as that allows. Returns only when it fails. */
static void become_passt(char **command)
{
    const int bytes = PASST_SEND_BYTES;
    if (setsockopt(PASST_SOCKET, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes)) {
        setsockopt(PASST_SOCKET, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    execv(command[0], command);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        become_passt(argv + 1);
        return 127;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (geteuid() == 0 && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))) return 1;
    if (fcntl(VM_SIDE, F_SETFL, O_NONBLOCK) || fcntl(NETWORK_SIDE, F_SETFL, O_NONBLOCK)) return 1;
    for (;;) {
        struct pollfd sides[2] = {
            {.fd = VM_SIDE, .events = (short)((outgoing.filled < BUFFER ? POLLIN : 0) | (incoming.checked ? POLLOUT : 0))},
            {.fd = NETWORK_SIDE, .events = (short)((incoming.filled < BUFFER ? POLLIN : 0) | (outgoing.checked ? POLLOUT : 0))},
        };
        if (poll(sides, 2, -1) < 0 && errno != EINTR) return 1;
        if ((sides[0].revents | sides[1].revents) & (POLLERR | POLLNVAL)) return 0;
        if (sides[0].revents & (POLLIN | POLLHUP)) {
            if (!receive(VM_SIDE, &outgoing)) return 0;
            if (!check_frames(&outgoing)) return 1;
        }
        if (sides[1].revents & (POLLIN | POLLHUP)) {
            if (!receive(NETWORK_SIDE, &incoming)) return 0;
            incoming.checked = incoming.filled;
        }
        if (outgoing.checked && !send_on(NETWORK_SIDE, &outgoing)) return 0;
        if (incoming.checked && !send_on(VM_SIDE, &incoming)) return 0;
    }
}
