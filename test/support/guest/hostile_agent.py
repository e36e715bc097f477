"""The hostile agent: root in a guest stops process 1, takes its guest link, and speaks the protocol itself.

usage: hostile_agent.py MODE, as root inside a guest

It answers a PING and the start of a command as `src/guest-agent/README.md` has it, and refuses everything else as
unsupported. What MODE says comes besides:
  empty   DATA without bytes for every command, without end
  tiny    DATA of one byte for every command, on two channels in turn, as much as the window allows
  window  WINDOW for no bytes for every command, without end
  list    entries of 30 KiB, half name and half path, for every listing of a folder, without end
"""

import ctypes
import os
import select
import struct
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT, WAIT_ALL = 0x4206, 0x4207, 0x40000000
PIDFD_GETFD = 438
HELLO, WELCOME, OPEN, DATA, EVENT, RESULT, WINDOW, RESET = 1, 2, 3, 4, 6, 7, 8, 9
EXEC, LIST_DIRECTORY, PING = 1, 8, 16
CANCELLED, UNSUPPORTED = 11, 8
INITIAL_WINDOW = 262144
BATCH = 4096


def take_link():
    """Stops process 1 for good. Returns descriptors to read from its link and to write to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, 1, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(1, WAIT_ALL)
    links = {int(name): os.readlink("/proc/1/fd/" + name) for name in os.listdir("/proc/1/fd")}
    for number, target in links.items():
        if target.startswith("/dev/vport"):
            port = libc.syscall(PIDFD_GETFD, os.pidfd_open(1), number, 0)
            if port < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            return port, port
    # In gVisor two pipes of the host, after the log, which gVisor lets root open by their names.
    pipes = sorted(number for number, target in links.items() if target.startswith("host:") and number > 2)
    reading, writing = [f"/proc/1/fd/{number}" for number in pipes]
    return os.open(reading, os.O_RDONLY), os.open(writing, os.O_WRONLY)


def frame(kind, stream, payload=b"", channel=0):
    return struct.pack(">BBHII", kind, channel, 0, stream, len(payload)) + payload + b"\xa5"


def field(tag, value):
    if isinstance(value, int):
        value = struct.pack(">Q", value)
    return struct.pack(">BI", tag, len(value)) + value


class HostileAgent:
    def __init__(self, link, mode):
        self.reading, self.writing = link
        self.mode = mode
        self.input, self.output = b"", b""
        # Streams that are flooded, each with its operation and the bytes that its window allows.
        self.floods = {}

    def run(self):
        os.set_blocking(self.reading, False)
        os.set_blocking(self.writing, False)
        while True:
            if not self.output:
                self.output = self.more()
            select.select([self.reading], [self.writing] if self.output else [], [], 1)
            self.read()
            self.write()

    def read(self):
        try:
            self.input += os.read(self.reading, 65536)
        except BlockingIOError:
            return
        while True:
            self.input = self.input.lstrip(b"\0")
            if len(self.input) < 12:
                return
            kind, _, _, stream, length = struct.unpack(">BBHII", self.input[:12])
            if len(self.input) < 13 + length:
                return
            payload, self.input = self.input[12 : 12 + length], self.input[13 + length :]
            self.take(kind, stream, payload)

    def write(self):
        try:
            self.output = self.output[os.write(self.writing, self.output) :]
        except BlockingIOError:
            pass

    def take(self, kind, stream, payload):
        if kind == HELLO:
            self.floods = {}
            boot_id = open("/proc/sys/kernel/random/boot_id", "rb").read().strip()
            fields = field(1, 1) + field(2, b"hostile") + field(3, boot_id)
            self.output = frame(WELCOME, 0, payload[10:26] + fields)
        elif kind == OPEN:
            self.open(stream, struct.unpack(">H", payload[:2])[0])
        elif kind == WINDOW and stream in self.floods:
            self.floods[stream][1] += struct.unpack(">I", payload)[0]
        elif kind == RESET and self.floods.pop(stream, None):
            self.output += frame(RESULT, stream, struct.pack(">H", CANCELLED))

    def open(self, stream, operation):
        if operation == EXEC:
            started = struct.pack(">H", 1) + field(17, 4000 + stream)
            self.output += frame(EVENT, stream, started)
            self.floods[stream] = [EXEC, INITIAL_WINDOW - len(started)]
        elif operation == LIST_DIRECTORY and self.mode == "list":
            self.floods[stream] = [LIST_DIRECTORY, INITIAL_WINDOW]
        else:
            self.output += frame(RESULT, stream, struct.pack(">H", 0 if operation == PING else UNSUPPORTED))

    def more(self):
        return b"".join(self.flood(stream, *flood) for stream, flood in self.floods.items())

    def flood(self, stream, operation, window):
        if operation == LIST_DIRECTORY:
            name = b"n" * 15000
            texts = field(23, name) + field(6, b"/" + name) + field(27, b"root") + field(28, b"root")
            entry = texts + field(24, 1) + field(25, 0) + field(26, 0o644) + field(29, 0)
            event = struct.pack(">H", 3) + field(22, entry)
            return self.spend(stream, frame(EVENT, stream, event), len(event), 1)
        if self.mode == "list":
            return b""
        if self.mode == "empty":
            return frame(DATA, stream, b"", 1) * BATCH
        if self.mode == "window":
            return frame(WINDOW, stream, struct.pack(">I", 0)) * BATCH
        pair = frame(DATA, stream, b"x", 1) + frame(DATA, stream, b"x", 2)
        return self.spend(stream, pair, 2, BATCH)

    def spend(self, stream, frames, size, most):
        """As many of `frames` as the window of the stream allows, at most that many."""
        count = min(most, self.floods[stream][1] // size)
        self.floods[stream][1] -= count * size
        return frames * count


if __name__ == "__main__":
    HostileAgent(take_link(), sys.argv[1]).run()
