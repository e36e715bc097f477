"""A kernel's side of its link to the front, and the two pipes that catch what the cell's programs write.

Output is in order because whatever the pipes hold is sent before every frame of the kernel's own. While the kernel is
busy in a program or in C code and sends nothing, the front reads the pipes itself.
"""

import os
import signal
import threading

from frames import HEAD, LINE, MESSAGE, STDERR, STDOUT, FrameReader, frame, message

PIECE_BYTES = 1 << 16


class KernelLink:
    """The link. Sending is safe from every thread and is never cut in half by an interrupt."""

    def __init__(self, control, pipes):
        """`control` is a connected stream socket, `pipes` the reading ends of standard output and standard error."""
        self.control = control
        self._pipes = tuple(zip((STDOUT, STDERR), pipes))
        self._lock = threading.RLock()
        self._sending = False
        self._interrupted = False
        self._frames = FrameReader()
        for _, pipe in self._pipes:
            os.set_blocking(pipe, False)

    def send(self, kind, payload):
        """Sends what the pipes hold, and then a frame."""
        self.send_all(((kind, payload),))

    def send_all(self, frames):
        """Sends what the pipes hold, and then several frames."""
        with self._lock:
            is_main = threading.current_thread() is threading.main_thread()
            if is_main:
                self._sending = True
            try:
                parts = self._pipe_frames()
                parts += [frame(kind, payload) for kind, payload in frames]
                if parts:
                    self.control.sendall(b"".join(parts))
            finally:
                if is_main:
                    self._sending = False
        if is_main and self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def tell(self, value):
        """Sends a message."""
        self.send(MESSAGE, message(value)[HEAD.size :])

    def line(self, text):
        """Sends a line for the client."""
        self.send(LINE, text.encode("ascii"))

    def holds_interrupt(self):
        """Whether an interrupt has to wait because the main thread is sending; it is raised after that."""
        if self._sending:
            self._interrupted = True
        return self._sending

    def forget_interrupt(self):
        """Drops an interrupt that waits: its cell has ended."""
        self._interrupted = False

    def receive(self):
        """Reads once and yields each message. Raises EOFError when the front is gone."""
        data = self.control.recv(PIECE_BYTES)
        if not data:
            raise EOFError
        for kind, payload in self._frames.feed(data):
            if kind == MESSAGE:
                yield payload

    def close_in_child(self):
        """For a process that the cell forked: the link is not its own."""
        self.control.close()
        for _, pipe in self._pipes:
            os.close(pipe)
        self._pipes = ()

    def _pipe_frames(self):
        parts = []
        for kind, pipe in self._pipes:
            while True:
                try:
                    data = os.read(pipe, PIECE_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    break
                parts.append(frame(kind, data))
        return parts


def ignore_interrupts():
    """Makes an idle kernel deaf to SIGINT, which is meant for a cell."""
    signal.signal(signal.SIGINT, lambda *_: None)
