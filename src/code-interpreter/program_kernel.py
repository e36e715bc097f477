"""The kernels of R and Java: a program of each language runs the cells and speaks in frames over two pipes.

To the program: a cell, a variable, a folder. From it: output, results, an error, and at the end of each order DONE.
Texts within a payload are divided by zero bytes, so that neither language needs a reader of JSON.
"""

import os
import select
import shutil
import signal
import subprocess
import tempfile

from frames import HEAD, LINE, STDERR, STDOUT
from relay_kernel import RelayKernel
from results import error_line, result_line

FOLDER = os.path.dirname(os.path.abspath(__file__))
# Orders.
CELL, SET, UNSET, ENTER, RESEED = b"CVUFS"
# Replies; standard output and standard error have the kinds that they have everywhere.
DONE, RESULT, ERROR = b"DRX"


class ProgramKernel(RelayKernel):
    """A kernel. It ends when its program does, and the front starts the next."""

    def __init__(self, control, pipes, run_folder, language):
        super().__init__(control, pipes)
        self._run_folder = run_folder
        self._language = language
        self._program = None
        self._orders = None
        self._replies = None
        self._pending = bytearray()
        self._ended, alarm = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # A program that was killed may have left children that hold its pipes open.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

    def start_program(self):
        command = r_command() if self._language == "r" else java_command(self._run_folder)
        orders_read, orders_write = os.pipe2(os.O_CLOEXEC)
        replies_read, replies_write = os.pipe2(os.O_CLOEXEC)
        ends = (orders_read, replies_write)
        paths = [f"/proc/self/fd/{end}" for end in ends]
        self._program = subprocess.Popen([*command, *paths], stdin=subprocess.DEVNULL, pass_fds=ends)
        for end in ends:
            os.close(end)
        self._orders = orders_write
        self._replies = replies_read
        self._wait()

    def wait_for_order(self):
        while True:
            ready, _, _ = select.select([self._link.control, self._ended], [], [])
            if self._link.control in ready:
                return
            self._end_with_program()

    def enter(self, folder):
        if not os.path.isdir(folder):
            return f"there is no folder {folder}"
        self._order(ENTER, folder)
        return None

    def export(self, variables):
        for name, value in variables.items():
            self._order(SET, f"{name}\0{value}")

    def unset(self, names):
        for name in names:
            self._order(UNSET, name)

    def reseed(self):
        self._order(RESEED, "")

    def run_cell(self, code):
        return self._order(CELL, code)

    def _order(self, kind, text):
        """Has the program do something. True when it ended by its own will."""
        payload = text.encode("utf-8", "surrogateescape")
        data = HEAD.pack(len(payload), kind) + payload
        try:
            while data:
                data = data[os.write(self._orders, data) :]
        except BrokenPipeError:
            pass
        return self._wait()

    def _wait(self):
        """Passes replies on until DONE. True when the program ended by its own will."""
        while True:
            for kind, payload in self._frames():
                if kind == DONE:
                    return False
                self._pass_on(kind, payload)
            ready, _, _ = select.select([self._replies, self._ended], [], [])
            data = os.read(self._replies, 1 << 16) if self._replies in ready else None
            if data:
                self._pending += data
            elif self._end_with_program(data == b""):
                return True

    def _frames(self):
        while len(self._pending) >= HEAD.size:
            length, kind = HEAD.unpack_from(self._pending)
            end = HEAD.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[HEAD.size : end])
            del self._pending[:end]
            yield kind, payload

    def _pass_on(self, kind, payload):
        if kind in (STDOUT, STDERR):
            self._link.send(kind, payload)
            return
        texts = [text.decode("utf-8", "replace") for text in payload.split(b"\0")]
        if kind == ERROR:
            line = error_line(*texts[:3])
        else:
            is_main, *rest = texts
            line = result_line(dict(zip(rest[::2], rest[1::2])), is_main == "1")
        self._link.send(LINE, line.encode())

    def _end_with_program(self, is_over=False):
        """Ends the kernel if its program has died; True if it ended well, False if it lives."""
        try:
            os.read(self._ended, 4096)
        except BlockingIOError:
            pass
        status = self._program.wait() if is_over else self._program.poll()
        if status is None:
            return False
        if status == 0:
            return True
        os._exit(1)


def r_command():
    script = os.path.join(FOLDER, "r", "kernel.R")
    return [program_of("r"), "--no-echo", "--no-restore", "--no-save", f"--file={script}", "--args"]


def java_command(run_folder):
    """Compiles the program of Java kernels at its first start, because the disk is made without Java."""
    classes = os.path.join(run_folder, "java")
    if not os.path.isdir(classes):
        partial = tempfile.mkdtemp(prefix="java-", dir=run_folder)
        source = os.path.join(FOLDER, "java", "Kernel.java")
        subprocess.run(["javac", "-nowarn", "-d", partial, source], check=True, stdin=subprocess.DEVNULL)
        try:
            os.rename(partial, classes)
        except OSError:
            # Another kernel was faster.
            shutil.rmtree(partial)
    return [program_of("java"), "-XX:+UseSerialGC", "-Xshare:auto", "-cp", classes, "Kernel"]


def program_of(language):
    """The program that a language needs; None if this template does not have it."""
    return shutil.which("R") if language == "r" else shutil.which("javac") and shutil.which("java")
