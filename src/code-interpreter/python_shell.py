"""IPython's shell as a kernel has it: values, displays and errors become lines of the stream."""

import builtins
import getpass
import os
import subprocess
import zlib

from IPython.core import page
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError
from IPython.core.hooks import CommandChainDispatcher  # noqa: F401  (loaded before contexts are forked)
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Any, Type

from python_formats import add_formats
from results import error_line, result_line


class CellCompiler(CachingCompiler):
    """Gives cells the file names that Jupyter gives them, which messages of syntax errors show."""

    def get_code_name(self, raw_code, code, number):
        return f"/tmp/ipykernel_{os.getpid()}/{zlib.crc32(raw_code.encode('utf-8', 'surrogatepass'))}.py"


class ResultHook(DisplayHook):
    """Sends the value of a cell."""

    def start_displayhook(self):
        self.bundle = None

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.bundle = format_dict

    def finish_displayhook(self):
        if self.bundle is not None:
            self.shell.send_result(self.bundle, True)
        self.bundle = None
        self._is_active = False


class ResultPublisher(DisplayPublisher):
    """Sends what a cell displays. Updates and clearing have no counterpart for clients."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_):
        if not update:
            self.shell.send_result(data, False)

    def clear_output(self, wait=False):
        pass


class KernelShell(InteractiveShell):
    """The shell. `lines` is where its lines go; before a context is forked it is None, and nothing is shown."""

    compiler_class = Type(CellCompiler)
    displayhook_class = Type(ResultHook)
    display_pub_class = Type(ResultPublisher)
    lines = Any(None, allow_none=True)
    exiting = False

    @classmethod
    def make(cls):
        """The one shell of this process."""
        shell = cls.instance(colors="nocolor")
        shell.history_manager.enabled = False
        add_formats(shell)
        shell.set_hook("show_in_pager", page.as_hook(page.display_page), 99)
        builtins.input = refuse_input
        getpass.getpass = refuse_input
        return shell

    def init_history(self):
        # No file and no thread that writes to it.
        self.config.HistoryManager.enabled = False
        super().init_history()

    def send_result(self, bundle, is_main):
        if self.lines is not None:
            self.lines(result_line(bundle, is_main))

    def _showtraceback(self, etype, evalue, stb):
        if self.lines is not None:
            self.lines(error_line(etype.__name__, str(evalue), "".join(stb)))

    def system_piped(self, cmd):
        """Runs a command of the system; its output is that of the cell."""
        command = self.var_expand(cmd, depth=1)
        self.user_ns["_exit_code"] = subprocess.call([os.environ.get("SHELL", "/bin/sh"), "-c", command])

    system = system_piped

    def enable_gui(self, gui=None):
        if gui not in (None, "inline"):
            raise NotImplementedError(f"there is no screen for the event loop of {gui}")

    def ask_exit(self):
        self.exiting = True


def refuse_input(*_, **__):
    """Stands for `input`, because nobody can answer."""
    raise StdinNotImplementedError("raw_input was called, but this frontend does not support input requests.")
