"""Standard output and standard error of Python cells: text is gathered for a moment and sent over the kernel's link."""

import io
import os
import sys
import threading

from frames import STDERR, STDOUT

GATHER_S = 0.05
GATHER_CHARACTERS = 1 << 15
# A program that the cell starts writes to the pipes at once, so what the cell wrote before goes first.
FLUSHING_EVENTS = frozenset(("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty"))


class CellOutput(io.TextIOBase):
    """One of the two streams."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, gathering, kind, number):
        self._gathering = gathering
        self._kind = kind
        self._number = number
        self.buffer = CellBytes(self)
        self.name = "<stdout>" if number == 1 else "<stderr>"

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._gathering.add(self._kind, self._number, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, data):
        self._gathering.add(self._kind, self._number, bytes(data))
        return len(data)

    def flush(self):
        self._gathering.flush()

    def fileno(self):
        return self._number

    def isatty(self):
        return False

    def readable(self):
        return False

    def writable(self):
        return True


class CellBytes(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, text):
        self._text = text

    def write(self, data):
        return self._text.write_bytes(data)

    def flush(self):
        self._text.flush()

    def fileno(self):
        return self._text.fileno()

    def writable(self):
        return True


class Gathering:
    """What both streams have gathered, in order."""

    def __init__(self, link):
        self._link = link
        self._lock = threading.RLock()
        self._parts = []
        self._size = 0
        self._wanted = threading.Event()
        self._pid = os.getpid()
        self.stdout = CellOutput(self, STDOUT, 1)
        self.stderr = CellOutput(self, STDERR, 2)

    def start(self):
        """Takes over the process's streams. Call it once, in the main thread."""
        sys.stdout = sys.__stdout__ = self.stdout
        sys.stderr = sys.__stderr__ = self.stderr
        threading.Thread(target=self._flush_late, name="output", daemon=True).start()
        sys.addaudithook(self._audit)
        os.register_at_fork(after_in_child=self._forked)

    def add(self, kind, number, data):
        if not data:
            return
        if self._pid != os.getpid():
            # A child of the cell: the pipes are its output.
            while data:
                data = data[os.write(number, data) :]
            return
        with self._lock:
            if self._parts and self._parts[-1][0] == kind:
                self._parts[-1][1].append(data)
            else:
                self._parts.append((kind, [data]))
            self._size += len(data)
            is_full = self._size >= GATHER_CHARACTERS
        if is_full:
            self.flush()
        elif not self._wanted.is_set():
            self._wanted.set()

    def flush(self):
        """Sends what was gathered."""
        if self._pid != os.getpid():
            return
        with self._lock:
            parts, self._parts, self._size = self._parts, [], 0
            self._wanted.clear()
            if parts:
                self._link.send_all([(kind, b"".join(pieces)) for kind, pieces in parts])

    def _flush_late(self):
        wait = threading.Event()
        while True:
            self._wanted.wait()
            wait.wait(GATHER_S)
            try:
                self.flush()
            except OSError:
                # The front is gone, and the main thread ends the process.
                return

    def _audit(self, event, _arguments):
        if event in FLUSHING_EVENTS and self._parts:
            self.flush()

    def _forked(self):
        self._parts, self._size = [], 0
        self._lock = threading.RLock()
        self._link.close_in_child()
