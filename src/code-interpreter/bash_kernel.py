"""The bash kernel: hands cells to one interactive bash, which keeps variables, functions and folder."""

import json
import os
import re
import select
import shlex
import signal
import subprocess
import tempfile

from frames import LINE
from kernel_link import KernelLink
from results import count_line, error_line

STATUS_DESCRIPTOR = 9
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class BashKernel:
    """A kernel. Its process only passes things on; what a cell does is bash's affair."""

    def __init__(self, control, pipes, run_folder):
        self._link = KernelLink(control, pipes)
        self._count = 1
        self._environment = {}
        self._cwd = None
        self._folder = tempfile.mkdtemp(prefix="bash-", dir=run_folder)
        self._shell = None
        self._statuses = None

    def run(self):
        """Serves until the front is gone."""
        signal.signal(signal.SIGINT, lambda *_: None)
        self._start_shell()
        self._link.tell({"ready": True})
        try:
            while True:
                for payload in self._link.receive():
                    order = json.loads(payload)
                    if order["do"] == "prepare":
                        self._link.tell(self._prepare(order))
                    else:
                        self._execute(order)
        except (EOFError, OSError):
            pass

    def _start_shell(self):
        read, write = os.pipe()
        # Prompts of an interactive shell are its only ones: one status after each command.
        environment = dict(
            os.environ, PS1="", PS2="", PROMPT_COMMAND=f'printf "%d\\n" "$?" >&{STATUS_DESCRIPTOR}', HISTFILE=""
        )
        os.dup2(write, STATUS_DESCRIPTOR, inheritable=True)
        os.close(write)
        self._shell = subprocess.Popen(
            ["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=subprocess.PIPE,
            stdout=1,
            # Its greeting says that it has no terminal; from the first command on both streams are one.
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=self._cwd,
            pass_fds=(STATUS_DESCRIPTOR,),
        )
        os.close(STATUS_DESCRIPTOR)
        self._statuses = os.fdopen(read, "rb", buffering=0)
        self._status()
        # PROMPT_COMMAND stays a variable of the shell but not of the programs that it starts.
        self._command("exec 2>&1; export -n PROMPT_COMMAND PS1 PS2; unset HISTFILE; set +mH")
        self._export(self._environment)

    def _prepare(self, order):
        if "cwd" in order:
            if not os.path.isdir(order["cwd"]):
                return {"prepared": False, "reason": f"there is no folder {order['cwd']}"}
            self._cwd = order["cwd"]
            self._command(f"cd -- {shlex.quote(self._cwd)}")
        gone = self._environment.keys() - order["environment"].keys()
        self._environment = order["environment"]
        self._unset(gone)
        self._export(self._environment)
        if order["reseed"]:
            self._command(f"RANDOM={int.from_bytes(os.urandom(2), 'little')}")
        return {"prepared": True}

    def _execute(self, order):
        variables = order["variables"]
        self._export(variables)
        self._link.send(LINE, count_line(self._count).encode())
        self._count += 1
        path = os.path.join(self._folder, "cell")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as cell:
            cell.write(order["code"] + "\n")
        status = self._command(f". {shlex.quote(path)} </dev/null {STATUS_DESCRIPTOR}>&-")
        if status is None:
            # The cell ended the shell.
            self._shell.wait()
            self._link.send(LINE, json.dumps(output_line("exit\nRestarting Bash\n")).encode())
            self._statuses.close()
            self._start_shell()
        elif status != 0:
            self._link.send(LINE, error_line("", str(status), "").encode())
        self._export({name: value for name, value in self._environment.items() if name in variables})
        self._unset(variables.keys() - self._environment.keys())
        self._link.tell({"done": True, "exits": False})

    def _export(self, variables):
        words = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if NAME.match(name)]
        if words:
            self._command(f"export {' '.join(words)}")

    def _unset(self, names):
        words = [name for name in names if NAME.match(name)]
        if words:
            self._command(f"unset -v {' '.join(words)}")

    def _command(self, text):
        """Runs a line and gives its status; None when the shell has ended."""
        try:
            self._shell.stdin.write(text.encode("utf-8", "surrogateescape") + b"\n")
            self._shell.stdin.flush()
        except BrokenPipeError:
            return None
        return self._status()

    def _status(self):
        line = b""
        while not line.endswith(b"\n"):
            select.select([self._statuses], [], [])
            data = self._statuses.read(1)
            if not data:
                return None
            line += data
        return int(line)


def output_line(text):
    """A line of standard output that is no program's."""
    from datetime import datetime, timezone

    return {"type": "stdout", "text": text, "timestamp": datetime.now(timezone.utc).isoformat(timespec="microseconds")}
