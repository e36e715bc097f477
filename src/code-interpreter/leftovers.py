"""Kernels that a front left when it died. Their contexts are gone, and one that is in a cell does not notice by itself."""

import os
import signal

from processes import read_each


def end_kernels_left(path, fork_server):
    """Ends every kernel whose fork server listened on `path`, and what it started. Call it before kernels are made.

    `fork_server` is the pid of the one that still lives, or None. Kernels outlive theirs, so it does not know them all.
    """
    for pid, command in read_each("cmdline"):
        if pid in (fork_server, os.getpid()) or path.encode() not in command.split(b"\0"):
            continue
        try:
            # A kernel leads a process group, whose other members are programs of its cells.
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except OSError:
            # It has ended meanwhile.
            continue
