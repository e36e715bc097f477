"""The stream of lines that one execution answers with: what the kernel says, put into the client's form."""

import asyncio
import codecs
import json
from datetime import datetime, timezone

from frames import LINE, STDERR, STDOUT

KEEPALIVE_S = 5
FULL_BYTES = 1 << 20
END = b'{"type": "end_of_execution"}\n'
KEEPALIVE = b'{"type": "keepalive"}\n'
NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class LineStream:
    """Lines on their way from a kernel to a client. When the client has left, they are dropped."""

    def __init__(self):
        self._lines = []
        self._size = 0
        self._changed = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._decoders = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in NAMES}
        self._has_error = False
        self._ended = False
        self.left = asyncio.Event()

    def take_frame(self, kind, payload):
        """Takes a kernel's frame."""
        if kind == LINE:
            self._flush_decoders()
            if payload.startswith(b'{"type": "error"'):
                if self._has_error:
                    return
                self._has_error = True
            self._put(payload + b"\n")
        else:
            self._put_text(kind, self._decoders[kind].decode(payload))

    def error(self, name, value):
        """Adds an error that is not the cell's. Clients keep the last one."""
        self._flush_decoders()
        self._put(json.dumps({"type": "error", "name": name, "value": value, "traceback": ""}).encode() + b"\n")

    def end(self):
        """Adds the last line."""
        self._flush_decoders()
        self._put(END)
        self._ended = True
        self._changed.set()

    def leave(self):
        """The client is gone."""
        self._lines.clear()
        self._size = 0
        self._roomy.set()
        self.left.set()
        self._changed.set()

    @property
    def is_full(self):
        """Whether the client reads more slowly than the kernel writes."""
        return not self._roomy.is_set()

    async def roomy(self):
        """Waits until the client has read enough."""
        await self._roomy.wait()

    async def next_lines(self):
        """The lines that have come, as one piece; a keepalive when none came for a while; None after the last."""
        if not self._lines and not self._ended:
            try:
                await asyncio.wait_for(self._changed.wait(), KEEPALIVE_S)
            except asyncio.TimeoutError:
                return KEEPALIVE
        self._changed.clear()
        if not self._lines:
            return None
        lines, self._lines, self._size = b"".join(self._lines), [], 0
        self._roomy.set()
        return lines

    def _put(self, line):
        if self.left.is_set():
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size > FULL_BYTES:
            self._roomy.clear()
        self._changed.set()

    def _put_text(self, kind, text):
        if not text:
            return
        timestamp = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        self._put(json.dumps({"type": NAMES[kind], "text": text, "timestamp": timestamp}).encode() + b"\n")

    def _flush_decoders(self):
        for kind, decoder in self._decoders.items():
            self._put_text(kind, decoder.decode(b"", True))
            decoder.reset()
