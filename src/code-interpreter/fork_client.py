"""The front's connection to the fork server, which it starts, and starts again when it has died."""

import asyncio
import json
import os
import socket
import subprocess
import sys

MESSAGE_BYTES = 1 << 16
RETRY_S = 0.02
PAUSE_AFTER_END_S = 0.5


class ForkClient:
    """Asks for kernels, and hears when they end."""

    def __init__(self, path, listener=None):
        self._path = path
        self._listener = listener
        self._socket = None
        self._connected = asyncio.Event()
        self._orders = {}
        self._last_order = 0
        self._on_exit = {}
        self._loaded = None
        self._program = None
        # Of a fork server that an earlier front left, once it has said it.
        self.left_pid = None

    def connect_now(self):
        """Connects to a fork server that an earlier front left. False if there is none."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            client.connect(self._path)
        except OSError:
            client.close()
            return False
        self._socket = client
        return True

    def take_listener(self):
        """The socket that an earlier front served on, which the fork server kept; None if there is none."""
        self._socket.sendall(json.dumps({"do": "take"}).encode())
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, 8)
            if not data:
                return None
            said = json.loads(data)
            if "taken" in said:
                self.left_pid = said["pid"]
                return socket.socket(fileno=descriptors[0]) if descriptors else None

    async def serve(self, listener):
        """Stays connected for ever, and has the fork server keep `listener`."""
        loop = asyncio.get_running_loop()
        while True:
            while self._socket is None and not self.connect_now():
                self._start_server()
                await asyncio.sleep(RETRY_S)
            client = self._socket
            client.setblocking(False)
            try:
                socket.send_fds(client, [json.dumps({"do": "keep"}).encode()], [listener.fileno()])
                lost = loop.create_future()
                loop.add_reader(client, self._hear, client, lost)
                self._connected.set()
                await lost
            except OSError:
                pass
            self._connected.clear()
            loop.remove_reader(client)
            client.close()
            self._socket = None
            for waiting in self._orders.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the fork server has ended"))
            self._orders.clear()
            if self._loaded is not None and not self._loaded.done():
                self._loaded.set_exception(ConnectionError("the fork server has ended"))
            await asyncio.sleep(PAUSE_AFTER_END_S)

    async def load_ahead(self):
        """Has the fork server load what cells import first of all. Raises ConnectionError when it ends meanwhile."""
        await self._connected.wait()
        self._loaded = asyncio.get_running_loop().create_future()
        self._socket.sendall(json.dumps({"do": "load_ahead"}).encode())
        await self._loaded

    async def fork(self, order, descriptors, on_exit):
        """Has a kernel forked and gives its pid. `on_exit` is called with its wait status when it ends.

        Raises ConnectionError when the fork server ends meanwhile."""
        await self._connected.wait()
        self._last_order += 1
        number = self._last_order
        waiting = asyncio.get_running_loop().create_future()
        self._orders[number] = waiting
        try:
            data = json.dumps({**order, "order": number}).encode()
            socket.send_fds(self._socket, [data], descriptors)
            pid = await waiting
        finally:
            self._orders.pop(number, None)
        self._on_exit[pid] = on_exit
        return pid

    def _start_server(self):
        if self._program is not None and self._program.poll() is None:
            return
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fork_server.py")
        # A session of its own: it outlives this front.
        self._program = subprocess.Popen([sys.executable, script, self._path], start_new_session=True)

    def _hear(self, client, lost):
        try:
            data = client.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if not lost.done():
                lost.set_result(None)
            return
        said = json.loads(data)
        if "forked" in said:
            waiting = self._orders.get(said["order"])
            if waiting is not None and not waiting.done():
                waiting.set_result(said["forked"])
        elif "loaded" in said and self._loaded is not None and not self._loaded.done():
            self._loaded.set_result(None)
        elif "exited" in said:
            on_exit = self._on_exit.pop(said["exited"], None)
            if on_exit is not None:
                on_exit(said["status"])
