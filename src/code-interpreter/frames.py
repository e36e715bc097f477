"""The frames between the front and a kernel: how a length, a kind and a payload travel over one stream socket."""

import json
import struct

HEAD = struct.Struct("!IB")

# A JSON object that one side tells the other.
MESSAGE = ord("J")
# A JSON object for the client, without its newline; the front passes it on as it is.
LINE = ord("L")
# Bytes that the cell wrote to standard output or standard error.
STDOUT = ord("O")
STDERR = ord("E")

MAX_PAYLOAD_BYTES = 1 << 30


def frame(kind, payload):
    """One frame as bytes."""
    return HEAD.pack(len(payload), kind) + payload


def message(value):
    """A frame of kind MESSAGE."""
    return frame(MESSAGE, json.dumps(value).encode())


class FrameReader:
    """Puts frames together from pieces of a stream."""

    def __init__(self):
        self._pieces = bytearray()

    def feed(self, data):
        """Takes a piece and yields each frame that is whole as `(kind, payload)`.

        Raises ValueError when the stream has no frames, or one that is larger than any may be."""
        self._pieces += data
        start = 0
        try:
            while len(self._pieces) - start >= HEAD.size:
                length, kind = HEAD.unpack_from(self._pieces, start)
                if kind not in (MESSAGE, LINE, STDOUT, STDERR) or length > MAX_PAYLOAD_BYTES:
                    raise ValueError("a kernel sent something that is no frame")
                end = start + HEAD.size + length
                if len(self._pieces) < end:
                    break
                payload = bytes(self._pieces[start + HEAD.size : end])
                start = end
                yield kind, payload
        finally:
            del self._pieces[:start]
