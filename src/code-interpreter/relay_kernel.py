"""A kernel whose cells run in another program: what bash, R and Java have in common.

Its process, which the fork server forked, only passes things on between the front and the program.
"""

import json
import signal

from frames import LINE
from kernel_link import KernelLink
from results import count_line


class RelayKernel:
    """Serves the front. A subclass knows the program: it has the methods that raise NotImplementedError here."""

    def __init__(self, control, pipes):
        self._link = KernelLink(control, pipes)
        self._count = 1
        self._environment = {}

    def run(self):
        """Serves until the front is gone."""
        signal.signal(signal.SIGINT, lambda *_: None)
        self.start_program()
        self._link.tell({"ready": True})
        try:
            while True:
                self.wait_for_order()
                for payload in self._link.receive():
                    order = json.loads(payload)
                    if order["do"] == "prepare":
                        self._link.tell(self._prepare(order))
                    else:
                        self._execute(order)
        except (EOFError, OSError):
            pass

    def start_program(self):
        """Starts the program and waits until it can run cells."""
        raise NotImplementedError

    def wait_for_order(self):
        """Returns when the front may have sent something."""

    def enter(self, folder):
        """Makes a folder the working folder. Gives the reason if it cannot, else None."""
        raise NotImplementedError

    def export(self, variables):
        """Sets variables, by name."""
        raise NotImplementedError

    def unset(self, names):
        """Removes variables."""
        raise NotImplementedError

    def reseed(self):
        """Makes the random generator new."""
        raise NotImplementedError

    def run_cell(self, code):
        """Runs a cell to its end. True when the cell wanted the kernel to end."""
        raise NotImplementedError

    def _prepare(self, order):
        if "cwd" in order:
            reason = self.enter(order["cwd"])
            if reason is not None:
                return {"prepared": False, "reason": reason}
        gone = self._environment.keys() - order["environment"].keys()
        self._environment = order["environment"]
        self.unset(gone)
        self.export(self._environment)
        if order["reseed"]:
            self.reseed()
        return {"prepared": True}

    def _execute(self, order):
        variables = order["variables"]
        self.export(variables)
        self._link.send(LINE, count_line(self._count).encode())
        if order["code"].strip():
            self._count += 1
        exits = self.run_cell(order["code"])
        if not exits:
            self.export({name: value for name, value in self._environment.items() if name in variables})
            self.unset(variables.keys() - self._environment.keys())
        self._link.tell({"done": True, "exits": exits})
