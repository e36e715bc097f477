"""The fork server: has IPython loaded and forks a kernel whenever the front asks. It runs no code of a user.

It listens on a Unix socket. A front connects, hands over the socket that it serves on (`keep`), and asks for kernels.
The fork server keeps that socket, so that a front which dies leaves no moment at which the port is closed: the next
front takes it over (`take`), and what has connected meanwhile waits.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback

MESSAGE_BYTES = 1 << 16


class ForkServer:
    """One loop in one thread, because only such a process can be forked without surprises."""

    def __init__(self, path, shell):
        self._shell = shell
        self._listener = listen(path)
        self._clients = []
        self._kept = None
        self._is_loaded = False
        self._alarm, alarm = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self):
        while True:
            ready, _, _ = select.select([self._listener, self._alarm, *self._clients], [], [])
            for source in ready:
                if source is self._listener:
                    client, _ = self._listener.accept()
                    self._clients.append(client)
                elif source == self._alarm:
                    self._reap()
                elif source in self._clients:
                    self._hear(source)

    def _hear(self, client):
        try:
            data, descriptors, _, _ = socket.recv_fds(client, MESSAGE_BYTES, 8)
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._clients.remove(client)
            client.close()
            return
        order = json.loads(data)
        if order["do"] == "keep":
            if self._kept is not None:
                os.close(self._kept)
            self._kept = descriptors[0]
        elif order["do"] == "load_ahead":
            self._load_ahead()
            self._answer(client, {"loaded": True})
        elif order["do"] == "take":
            said = {"taken": self._kept is not None, "pid": os.getpid()}
            self._answer(client, said, [] if self._kept is None else [self._kept])
        else:
            self._begin_anew_if_stale()
            self._fork(client, order, descriptors)

    def _begin_anew_if_stale(self):
        """Becomes a fork server without packages when one of them was installed anew. The front connects again."""
        if self._is_loaded and self._is_stale():
            os.execv(sys.executable, [sys.executable, *sys.argv])

    @staticmethod
    def _is_stale():
        from preload import SHELF

        return SHELF.is_stale()

    def _load_ahead(self):
        from python_kernel import load_ahead

        if not self._is_loaded:
            load_ahead(self._shell)
            gc.collect()
            gc.freeze()
        self._is_loaded = True

    def _fork(self, client, order, descriptors):
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                self._become(order, descriptors)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        for descriptor in descriptors:
            os.close(descriptor)
        self._answer(client, {"forked": pid, "order": order["order"]})

    def _become(self, order, descriptors):
        """The child: a kernel. `descriptors` are its control socket, and both ends of its output pipes."""
        os.setsid()
        end_first_when_memory_is_short()
        run_folder = os.environ.get("FIRKIN_RUN_FOLDER")
        for name in [name for name in os.environ if name.startswith("FIRKIN_")]:
            del os.environ[name]
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (self._listener, *self._clients):
            other.close()
        os.close(self._alarm)
        if self._kept is not None:
            os.close(self._kept)
        control, out_read, out_write, err_read, err_write = descriptors
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (out_write, 1), (err_write, 2)):
            os.dup2(source, target)
        for source in (null, out_write, err_write):
            os.close(source)
        if order["do"] == "program":
            os.dup2(control, 3)
            os.set_inheritable(3, True)
            os.closerange(4, 256)
            # The path is for leftovers.py, which finds kernels by it.
            program = [*order["program"], sys.argv[1]]
            os.execve(program[0], program, dict(os.environ, **order["environment"]))
        link = socket.socket(fileno=control)
        if order["do"] == "python":
            from python_kernel import PythonKernel

            PythonKernel(self._shell, link, (out_read, err_read)).run()
        elif order["do"] == "bash":
            from bash_kernel import BashKernel

            BashKernel(link, (out_read, err_read), run_folder).run()
        elif order["do"] in ("r", "java"):
            from program_kernel import ProgramKernel

            ProgramKernel(link, (out_read, err_read), run_folder, order["do"]).run()
        else:
            raise ValueError(f"unknown kernel {order['do']}")

    def _reap(self):
        try:
            os.read(self._alarm, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for client in list(self._clients):
                self._answer(client, {"exited": pid, "status": status})

    def _answer(self, client, value, descriptors=()):
        try:
            socket.send_fds(client, [json.dumps(value).encode()], descriptors)
        except OSError:
            # The front is gone, which the next read says.
            pass


def end_first_when_memory_is_short():
    """Makes a kernel and its programs likelier victims than the service."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        # A host on which tests run may not allow it.
        pass


def listen(path):
    """A listening socket at `path`, which takes the place of one that an earlier fork server left."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.path.exists(path):
        os.unlink(path)
    old = os.umask(0o077)
    listener.bind(path)
    os.umask(old)
    listener.listen(8)
    return listener


def main():
    from python_kernel import warm_up
    from python_shell import KernelShell

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Figures are shown by the cell, as images.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    shell = KernelShell.make()
    warm_up(shell)
    gc.collect()
    gc.freeze()
    ForkServer(sys.argv[1], shell).serve()


if __name__ == "__main__":
    main()
