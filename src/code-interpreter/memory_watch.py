"""Watches how much memory the sandbox has left while cells run, and ends the kernel that takes most before it is used up.

gVisor has no killer of its own for that: there the host ends the whole sandbox. In a virtual machine it only comes
before the guest's.
"""

import asyncio
import os
import sys

from processes import read_each

# Two processors fill about 100 MiB meanwhile.
PERIOD_S = 0.05
LEAST_SHARE = 8
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
# Fields of /proc/PID/stat behind the name, from 0.
SESSION, RESIDENT = 3, 21


class MemoryWatch:
    """Watches as long as somebody is `with` it, which is while cells run."""

    def __init__(self, kernels, meminfo="/proc/meminfo"):
        """`kernels` gives the kernels that may be ended."""
        self._kernels = kernels
        self._meminfo = meminfo
        self._running = 0
        self._task = None

    def __enter__(self):
        self._running += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def __exit__(self, *_):
        self._running -= 1

    async def _watch(self):
        was_short = False
        while self._running:
            await asyncio.sleep(PERIOD_S)
            total, available = read_memory(self._meminfo)
            is_short = available < total // LEAST_SHARE
            # Twice: a sandbox that was just resumed may say less than there is.
            if is_short and was_short:
                self._end_largest(f"{available} of {total} KiB are left")
            # Memory of a kernel that was ended comes back in a moment.
            was_short = is_short and not was_short

    def _end_largest(self, why):
        sizes = resident_by_session()
        kernels = [kernel for kernel in self._kernels() if kernel.pid in sizes]
        if kernels:
            largest = max(kernels, key=lambda kernel: sizes[kernel.pid])
            print(f"kernel {largest.pid} with {sizes[largest.pid]} KiB is ended: {why}", file=sys.stderr, flush=True)
            largest.kill(None)


def read_memory(path):
    """Total and available memory, KiB."""
    with open(path, encoding="ascii") as file:
        values = dict(line.split(":", 1) for line in file)
    total, free, available, mapped = (
        int(values[name].split()[0]) for name in ("MemTotal", "MemFree", "MemAvailable", "Mapped")
    )
    # gVisor counts as used what is mapped of files. The host drops that when it needs the room.
    return total, free + mapped if available == free else available


def resident_by_session():
    """Resident memory of each session's processes, KiB. A kernel leads the session of what its cells start."""
    sizes = {}
    for _, text in read_each("stat"):
        fields = text.rpartition(b")")[2].split()
        session = int(fields[SESSION])
        sizes[session] = sizes.get(session, 0) + int(fields[RESIDENT]) * PAGE_KIB
    return sizes
