"""The bash kernel: hands cells to one interactive bash, which keeps variables, functions and folder."""

import json
import os
import re
import select
import shlex
import subprocess
import tempfile

from frames import LINE
from relay_kernel import RelayKernel
from results import error_line

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class BashKernel(RelayKernel):
    """A kernel. What a cell does is bash's affair."""

    def __init__(self, control, pipes, run_folder):
        super().__init__(control, pipes)
        self._cwd = None
        self._folder = tempfile.mkdtemp(prefix="bash-", dir=run_folder)
        self._shell = None
        self._statuses = None
        # The descriptor that bash tells the status of each command by.
        self._teller = None

    def start_program(self):
        read, self._teller = os.pipe()
        # Prompts of an interactive shell are its only ones: one status after each command.
        environment = dict(
            os.environ, PS1="", PS2="", PROMPT_COMMAND=f'printf "%d\\n" "$?" >&{self._teller}', HISTFILE=""
        )
        self._shell = subprocess.Popen(
            ["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=subprocess.PIPE,
            stdout=1,
            # Its greeting says that it has no terminal; from the first command on both streams are one.
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=self._cwd,
            pass_fds=(self._teller,),
        )
        os.close(self._teller)
        self._statuses = os.fdopen(read, "rb", buffering=0)
        self._status()
        # PROMPT_COMMAND stays a variable of the shell but not of the programs that it starts.
        self._command("exec 2>&1; export -n PROMPT_COMMAND PS1 PS2; unset HISTFILE; set +mH")
        self.export(self._environment)

    def wait_for_order(self):
        ready, _, _ = select.select([self._link.control, self._statuses], [], [])
        if self._link.control not in ready:
            # Between commands it tells nothing, so it has ended. The front starts the next kernel.
            os._exit(1)

    def enter(self, folder):
        if not os.path.isdir(folder):
            return f"there is no folder {folder}"
        self._cwd = folder
        self._command(f"cd -- {shlex.quote(folder)}")
        return None

    def export(self, variables):
        words = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if NAME.match(name)]
        if words:
            self._command(f"export {' '.join(words)}")

    def unset(self, names):
        words = [name for name in names if NAME.match(name)]
        if words:
            self._command(f"unset -v {' '.join(words)}")

    def reseed(self):
        self._command(f"RANDOM={int.from_bytes(os.urandom(2), 'little')}")

    def run_cell(self, code):
        path = os.path.join(self._folder, "cell")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as cell:
            cell.write(code + "\n")
        status = self._command(f". {shlex.quote(path)} </dev/null {self._teller}>&-")
        if status is None:
            if self._shell.wait() < 0:
                # It was killed, as by a shortage of memory.
                os._exit(1)
            # The cell ended the shell.
            self._link.send(LINE, json.dumps(output_line("exit\nRestarting Bash\n")).encode())
            self._statuses.close()
            self.start_program()
        elif status != 0:
            self._link.send(LINE, error_line("", str(status), "").encode())
        return False

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
