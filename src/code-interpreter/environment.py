"""The sandbox's environment, which the agent writes into a file whenever a sandbox gets its identity."""

import os

SANDBOX_ID = "E2B_SANDBOX_ID"


class Environment:
    """Reads the file again when it has changed. The agent writes `NAME=VALUE` with a zero byte after each."""

    def __init__(self, path):
        self._path = path
        self._seen = None
        self._variables = {}

    def read(self):
        """The variables now, by name. The same object as before when nothing has changed."""
        try:
            info = os.stat(self._path)
        except OSError:
            return self._variables
        seen = (info.st_ino, info.st_mtime_ns, info.st_size)
        if seen == self._seen:
            return self._variables
        with open(self._path, "rb") as file:
            entries = file.read().decode("utf-8", "surrogateescape").split("\0")
        self._seen = seen
        self._variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        return self._variables
