"""The code interpreter service, which E2B's code interpreter SDKs talk to on port 49999: the front, where it starts.

The agent keeps this process alive. It starts the fork server (fork_server.py), which kernels are forked from, and
serves the routes (routes.py) of the contexts (contexts.py).
"""

import asyncio
import os
import socket
import sys

from contexts import Contexts
from environment import Environment
from fork_client import ForkClient
from http_server import MAX_HEAD_BYTES, Connection
from kernels import ContextFailure, Kernels
from leftovers import end_kernels_left
from routes import Routes

RETRY_S = 1


def setting(name, default):
    return os.environ.get(f"FIRKIN_{name}", default)


def listen(port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((setting("HOST", "0.0.0.0"), port))
    listener.listen(128)
    return listener


async def main():
    folder = setting("RUN_FOLDER", "/run/firkin/code-interpreter")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.environ["FIRKIN_RUN_FOLDER"] = folder
    path = os.path.join(folder, "fork.socket")
    fork_client = ForkClient(path)
    listener = fork_client.take_listener() if fork_client.connect_now() else None
    end_kernels_left(path, fork_client.left_pid)
    listener = listener or listen(int(setting("PORT", "49999")))
    listener.setblocking(False)
    kernels = Kernels(fork_client)
    environment = Environment(setting("ENVIRONMENT_FILE", "/run/e2b/environment"))
    # The template has this file before its snapshot.
    load_ahead = os.path.join(folder, "load-ahead")
    contexts = Contexts(kernels, environment, setting("HOME_FOLDER", "/home/user"), lambda: os.path.exists(load_ahead))
    routes = Routes(contexts)

    async def serve(reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await Connection(reader, writer, routes.handle).serve()

    staying = asyncio.ensure_future(fork_client.serve(listener))
    server = await asyncio.start_server(serve, sock=listener, limit=MAX_HEAD_BYTES)
    # A sandbox never waits for this.
    if os.path.exists(load_ahead):
        await fork_client.load_ahead()
    print(f"serving on port {listener.getsockname()[1]}", flush=True)
    while True:
        try:
            await contexts.start()
            break
        except ContextFailure as failure:
            print(f"the first contexts cannot be started: {failure}", file=sys.stderr, flush=True)
            await asyncio.sleep(RETRY_S)
    print("ready", flush=True)
    async with server:
        await staying


if __name__ == "__main__":
    asyncio.run(main())
