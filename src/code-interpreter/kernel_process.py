"""A kernel's process as the front sees it: its link, its output, its death."""

import asyncio
import json
import os
import signal
import socket

from frames import MESSAGE, STDERR, STDOUT, FrameReader, message

PIECE_BYTES = 1 << 18
QUIET_S = 0.05
PREPARE_S = 60
INTERRUPT_S = 5


class KernelDied(Exception):
    """The kernel is gone. `cause` says who ended it; None: it ended by itself."""

    def __init__(self, cause):
        super().__init__(cause or "the kernel has ended")
        self.cause = cause


class KernelStale(Exception):
    """The kernel has packages loaded that were installed anew since."""


class KernelProcess:
    """One kernel. Make it with `start`."""

    def __init__(self, control, pipes):
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._pipes = dict(zip((STDOUT, STDERR), pipes))
        self._frames = FrameReader()
        # It leads a process group and a session. None until it was forked.
        self.pid = None
        self._exits = False
        self._cause = None
        self._stream = None
        self._answer = None
        self._quiet = None
        self._is_open = True
        self._listening = False
        self.died = self._loop.create_future()
        # None until it was prepared for the first time.
        self.environment = None

    @classmethod
    async def start(cls, fork_client, order):
        """Has a kernel forked and waits until it is ready. Raises KernelDied, ConnectionError."""
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        err_read, err_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for end in (out_write, err_write):
            os.set_blocking(end, True)
        kernel = cls(ours, (out_read, err_read))
        ours.setblocking(False)
        ready = kernel._loop.create_future()
        kernel._answer = ready
        kernel._listen()
        try:
            descriptors = [theirs.fileno(), out_read, out_write, err_read, err_write]
            kernel.pid = await fork_client.fork(order, descriptors, lambda _status: kernel._end())
        except BaseException:
            kernel._end()
            raise
        finally:
            theirs.close()
            os.close(out_write)
            os.close(err_write)
        await kernel._wait(ready)
        return kernel

    @property
    def is_alive(self):
        return self._is_open

    async def prepare(self, order):
        """Gives it a folder and an environment.

        Raises ValueError with the reason it refuses, KernelStale when it was ended, KernelDied."""
        answer = self._loop.create_future()
        self._answer = answer
        self._send({"do": "prepare", **order})
        try:
            said = await asyncio.wait_for(self._wait(answer), PREPARE_S)
        except asyncio.TimeoutError:
            # A task or a thread of an earlier cell leaves it no time.
            self.kill("stuck")
            raise KernelDied("stuck") from None
        if said.get("stale"):
            self.kill("stale")
            raise KernelStale
        if not said["prepared"]:
            raise ValueError(said["reason"])

    async def execute(self, code, variables, stream):
        """Runs a cell, whose lines go to `stream`, to its end; interrupts it when the client leaves.

        Raises KernelDied."""
        answer = self._loop.create_future()
        self._answer = answer
        self._take_output()
        self._stream = stream
        self._send({"do": "execute", "code": code, "variables": variables})
        left = self._loop.create_task(stream.left.wait())
        try:
            await asyncio.wait({answer, self.died, left}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not self.died.done():
                self._signal(signal.SIGINT)
                await asyncio.wait({answer, self.died}, timeout=INTERRUPT_S, return_when=asyncio.FIRST_COMPLETED)
                if not answer.done() and not self.died.done():
                    self.kill("interrupt")
            said = await self._wait(answer)
            self._take_output()
            if said["exits"]:
                self.kill("exit")
        finally:
            left.cancel()
            self._stream = None

    def kill(self, cause):
        """Ends the kernel and everything that it started."""
        if self._is_open:
            self._cause = cause
            self._signal(signal.SIGKILL)
            self._end()

    async def _wait(self, answer):
        await asyncio.wait({answer, self.died}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise KernelDied(self._cause)

    def _send(self, value):
        # The kernel waits for messages whenever it is sent one, so that they do not pile up; one may be large.
        data = memoryview(message(value))
        self._outgoing = data
        self._write()

    def _write(self):
        if not self._is_open:
            return
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._control.send(self._outgoing) :]
        except BlockingIOError:
            self._loop.add_writer(self._control, self._write)
            return
        except OSError:
            self._end()
            return
        self._loop.remove_writer(self._control)

    def _listen(self):
        if not self._listening and self._is_open:
            self._listening = True
            self._loop.add_reader(self._control, self._receive)
            for pipe in self._pipes.values():
                self._loop.add_reader(pipe, self._notice_output)

    def _pause(self):
        """Reads nothing until the client has read, so that the kernel waits, too."""
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._control)
            self._stop_noticing()
            self._loop.create_task(self._go_on(self._stream))

    async def _go_on(self, stream):
        await stream.roomy()
        self._listen()

    def _receive(self):
        try:
            data = self._control.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        try:
            for kind, payload in self._frames.feed(data):
                if kind != MESSAGE:
                    self._deliver(kind, payload)
                elif self._answer is not None and not self._answer.done():
                    self._take_output()
                    self._answer.set_result(json.loads(payload))
        except ValueError:
            # The cell wrote into the link.
            self._signal(signal.SIGKILL)
            self._end()

    def _deliver(self, kind, payload):
        if self._stream is None:
            return
        self._stream.take_frame(kind, payload)
        if self._stream.is_full:
            self._pause()

    def _notice_output(self):
        """There is output that the kernel has not read. If it reads none for a moment, the front does."""
        self._stop_noticing()
        self._quiet = self._loop.call_later(QUIET_S, self._take_unread)

    def _stop_noticing(self):
        for pipe in self._pipes.values():
            self._loop.remove_reader(pipe)

    def _take_unread(self):
        self._quiet = None
        if not self._is_open or not self._listening:
            return
        self._receive()
        if self._is_open:
            self._take_output()
            if self._listening:
                for pipe in self._pipes.values():
                    self._loop.add_reader(pipe, self._notice_output)

    def _take_output(self):
        for kind, pipe in self._pipes.items():
            try:
                data = os.read(pipe, PIECE_BYTES)
            except (BlockingIOError, OSError):
                continue
            if data:
                self._deliver(kind, data)

    def _signal(self, number):
        if self.pid is None:
            return
        try:
            # It leads a process group, whose other members are programs of the cell.
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def _end(self):
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_writer(self._control)
        self._loop.remove_reader(self._control)
        self._stop_noticing()
        if self._quiet is not None:
            self._quiet.cancel()
        self._take_output()
        self._signal(signal.SIGKILL)
        self._control.close()
        for pipe in self._pipes.values():
            os.close(pipe)
        self._pipes = {}
        if not self.died.done():
            self.died.set_result(None)
