"""The Python kernel: runs cells in IPython's shell, one after the other, in a process that the fork server forked."""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile

from cell_output import Gathering
from frames import LINE
from kernel_link import KernelLink
from preload import SHELF, module_if_loaded
from results import count_line


class PythonKernel:
    """A kernel. Background tasks of cells go on between cells, because its event loop never stops."""

    def __init__(self, shell, control, pipes):
        self._shell = shell
        self._link = KernelLink(control, pipes)
        self._output = Gathering(self._link)
        self._orders = asyncio.Queue()
        self._cell = None
        self._sandbox_environment = {}

    def run(self):
        """Serves until the front is gone or a cell ends the kernel."""
        self._output.start()
        signal.signal(signal.SIGINT, self._on_interrupt)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.add_reader(self._link.control, self._receive)
        self._rehearse()
        self._link.tell({"ready": True})
        serving = loop.create_task(self._serve())
        while not serving.done():
            try:
                loop.run_until_complete(serving)
            except KeyboardInterrupt:
                # It came in a task of an earlier cell; that task has ended by it.
                continue
            except SystemExit:
                # Likewise: the cell's own is caught by the shell.
                break

    def _rehearse(self):
        """Does what an execution does, while nobody waits: this process copies each page that it shares when it writes."""
        SHELF.is_stale()
        reseed()
        self._shell.lines = lambda _line: None
        self._shell.run_cell("1 + 1", store_history=True)
        forget_cells(self._shell)
        self._shell.lines = self._send_line

    def _receive(self):
        try:
            for payload in self._link.receive():
                self._orders.put_nowait(json.loads(payload))
        except (EOFError, OSError, ValueError):
            os._exit(0)

    async def _serve(self):
        while not self._shell.exiting:
            order = await self._orders.get()
            if order["do"] == "prepare":
                self._link.tell(self._prepare(order))
            else:
                await self._execute(order)

    def _prepare(self, order):
        """Takes folder and environment, and makes random generators new where the sandbox is another one."""
        if "cwd" in order:
            if SHELF.is_stale():
                return {"prepared": False, "stale": True}
            try:
                os.chdir(order["cwd"])
            except OSError as error:
                return {"prepared": False, "reason": str(error)}
        for name in self._sandbox_environment.keys() - order["environment"].keys():
            os.environ.pop(name, None)
        self._sandbox_environment = order["environment"]
        os.environ.update(self._sandbox_environment)
        if order["reseed"]:
            reseed()
        return {"prepared": True}

    async def _execute(self, order):
        variables = order["variables"]
        os.environ.update(variables)
        self._send_line(count_line(self._shell.execution_count))
        self._cell = asyncio.current_task()
        self._link.forget_interrupt()
        try:
            await self._run_cell(order["code"])
        except KeyboardInterrupt:
            self._shell.showtraceback((KeyboardInterrupt, KeyboardInterrupt(), None), exception_only=True)
        finally:
            self._cell = None
            for name in variables:
                if name in self._sandbox_environment:
                    os.environ[name] = self._sandbox_environment[name]
                else:
                    os.environ.pop(name, None)
        self._finish()

    async def _run_cell(self, code):
        shell = self._shell
        problem = None
        try:
            cell = shell.transform_cell(code)
        except Exception:
            cell = code
            problem = sys.exc_info()
        if not shell.should_run_async(code, transformed_cell=cell, preprocessing_exc_tuple=problem):
            shell.run_cell(code, store_history=True)
            return
        running = asyncio.ensure_future(
            shell.run_cell_async(
                code, store_history=True, transformed_cell=cell, preprocessing_exc_tuple=problem
            )
        )
        self._cell = running
        result = None
        try:
            result = await running
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            shell.events.trigger("post_execute")
            if result is not None:
                shell.events.trigger("post_run_cell", result)

    def _finish(self):
        """Ends the execution; an interrupt that comes now is too late."""
        while True:
            try:
                self._output.flush()
                self._link.tell({"done": True, "exits": self._shell.exiting})
                return
            except KeyboardInterrupt:
                continue

    def _send_line(self, text):
        self._output.flush()
        self._link.send(LINE, text.encode("ascii"))

    def _on_interrupt(self, _number, _frame):
        if self._cell is None or self._link.holds_interrupt():
            return
        try:
            current = asyncio.current_task()
        except RuntimeError:
            current = None
        if current is self._cell:
            raise KeyboardInterrupt
        # The cell waits for something: only the loop can wake it.
        self._cell.get_loop().call_soon_threadsafe(self._cell.cancel)


def reseed():
    """Makes the random generators of the process new. Sandboxes of one snapshot would draw the same numbers."""
    random.seed()
    tempfile._name_sequence = None
    numpy_random = module_if_loaded("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(64), 64)


def warm_up(shell):
    """Runs what every first cell and every first error would load, and leaves no trace of it."""
    shell.lines = lambda _line: None
    for code in ("1 + 1", "import asyncio\nawait asyncio.sleep(0)", "[1]", "1 / 0", "1 +", "x = !true"):
        shell.run_cell(code, store_history=True)
    forget_cells(shell)


def load_ahead(shell):
    """Loads what cells of data analysis import first of all. It takes half a minute in an emulated guest."""
    shell.lines = lambda _line: None
    SHELF.fill(shell.run_cell)
    forget_cells(shell)


def forget_cells(shell):
    """Makes the shell as good as new."""
    shell.lines = None
    shell.reset(new_session=True)
    shell.execution_count = 1
    shell.compile._filename_map.clear()
