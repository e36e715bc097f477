"""The raw baseline of cells: the shell of the code interpreter's kernels, in the same guest, without service and HTTP.

Prints one object of JSON with the times of each kind, in milliseconds. Run it as root: `python3 raw_cells.py ROUNDS`.
"""

import json
import os
import subprocess
import sys
import time

sys.path.insert(0, "/opt/firkin/code-interpreter")
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")

from python_kernel import warm_up  # noqa: E402
from python_shell import KernelShell  # noqa: E402

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"


def timed(work):
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def fork_context():
    """A fork of the process that has everything loaded, up to its first byte."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"1")
        os._exit(0)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    os.waitpid(pid, 0)


def main():
    rounds = int(sys.argv[1])
    shell = KernelShell.make()
    warm_up(shell)
    shell.lines = lambda _line: None
    run = lambda code: shell.run_cell(code, store_history=True)
    times = {"value": [timed(lambda: run("1+1")) for _ in range(rounds)]}
    times["context"] = [timed(fork_context) for _ in range(rounds)]
    few = max(1, rounds // 10)
    pandas = [sys.executable, "-c", "import pandas"]
    times["pandas"] = [timed(lambda: subprocess.run(pandas, check=True)) for _ in range(few)]
    run(PLOT)
    times["plot"] = [timed(lambda: run(PLOT)) for _ in range(few)]
    print(json.dumps(times))


main()
