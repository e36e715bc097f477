"""Kernels that a front left when it died. Their contexts are gone, and one that is in a cell does not notice by itself."""

import os
import signal


def end_kernels_left(path, fork_server):
    """Ends every kernel whose fork server listened on `path`, and what it started. Call it before kernels are made.

    `fork_server` is the pid of the one that still lives, or None. Kernels outlive theirs, so it does not know them all.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (fork_server, os.getpid()):
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if path.encode() in words:
                # A kernel leads a process group, whose other members are programs of its cells.
                os.killpg(os.getpgid(int(name)), signal.SIGKILL)
        except OSError:
            # It has ended meanwhile.
            continue
