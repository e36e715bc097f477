"""As much of HTTP/1.1 as the service needs: requests with a body, answers with a length, and streams of chunks."""

import asyncio
import json
from http import HTTPStatus

MAX_HEAD_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 27
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class BadRequest(Exception):
    """The request is no HTTP, or too large. `status` is the answer's."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Request:
    """A request: `method`, `path` without its query, `headers` by lower-case name, `body`."""

    def __init__(self, method, path, version, headers, body):
        self.method = method
        self.path = path
        self.version = version
        self.headers = headers
        self.body = body

    @property
    def stays_open(self):
        tokens = self.headers.get("connection", "").lower()
        return "keep-alive" in tokens if self.version == "HTTP/1.0" else "close" not in tokens


class Answer:
    """An answer that is whole."""

    def __init__(self, status, body, content_type=TEXT, headers=()):
        self.status = status
        self.body = body if isinstance(body, bytes) else body.encode()
        self.headers = [("content-type", content_type), *headers]


def json_answer(value, status=200):
    return Answer(status, json.dumps(value), JSON)


class Connection:
    """One connection of a client."""

    def __init__(self, reader, writer, handle):
        self._reader = reader
        self._writer = writer
        self._handle = handle
        # A byte of the next request that came while this one was answered.
        self._ahead = b""

    async def serve(self):
        """Answers requests until the client leaves or wants no more."""
        try:
            while True:
                try:
                    request = await self._read_request()
                except BadRequest as problem:
                    await self._send(Answer(problem.status, str(problem)), None)
                    return
                if request is None or not await self._answer(request):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._writer.close()

    async def stream(self, request, next_piece):
        """Sends pieces as chunks until `next_piece` gives None. False when the client left before."""
        is_chunked = request.version != "HTTP/1.0"
        framing = [("transfer-encoding", "chunked")] if is_chunked else [("connection", "close")]
        self._writer.write(head(200, framing + cors(request)))
        left = asyncio.ensure_future(self._client_leaves())
        try:
            while True:
                piece = asyncio.ensure_future(next_piece())
                await asyncio.wait({piece, left}, return_when=asyncio.FIRST_COMPLETED)
                if left.done() and not self._ahead:
                    piece.cancel()
                    return False
                data = await piece
                if data is None:
                    break
                self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data)
                drain = asyncio.ensure_future(self._writer.drain())
                await asyncio.wait({drain, left}, return_when=asyncio.FIRST_COMPLETED)
                if left.done() and not self._ahead:
                    drain.cancel()
                    return False
                await drain
            if is_chunked:
                self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()
            return True
        except ConnectionError:
            return False
        finally:
            left.cancel()
            # Only one task may wait for bytes of a connection.
            await asyncio.wait({left})

    def abort(self):
        """Breaks the connection, so that the client does not take what it has for the whole answer."""
        self._writer.transport.abort()

    async def _client_leaves(self):
        """Ends when the client closes the connection, or sends what it should send later."""
        try:
            self._ahead = await self._reader.readexactly(1)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._ahead = b""

    async def _answer(self, request):
        result = await self._handle(request, self)
        if result is None:
            # A stream, which has been sent.
            return request.stays_open and request.version != "HTTP/1.0"
        await self._send(result, request)
        return request.stays_open

    async def _send(self, answer, request):
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        if request is not None:
            headers += cors(request)
            if not request.stays_open:
                headers.append(("connection", "close"))
        self._writer.write(head(answer.status, headers) + answer.body)
        await self._writer.drain()

    async def _read_request(self):
        try:
            text = self._ahead + await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial.strip():
                raise
            return None
        except asyncio.LimitOverrunError:
            raise BadRequest(431, "the request's head is too large") from None
        self._ahead = b""
        method, path, version, headers = parse_head(text)
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, path, version, headers, await self._read_body(headers))

    async def _read_body(self, headers):
        if "transfer-encoding" in headers:
            return await self._read_chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise BadRequest(400, "the content-length is no number")
        if int(length) > MAX_BODY_BYTES:
            raise BadRequest(413, "the body is too large")
        return await self._reader.readexactly(int(length))

    async def _read_chunks(self):
        body = bytearray()
        while True:
            line = await self._reader.readuntil(b"\r\n")
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                raise BadRequest(400, "a chunk has no size") from None
            if size < 0 or len(body) + size > MAX_BODY_BYTES:
                raise BadRequest(413, "the body is too large")
            if size == 0:
                while await self._reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return bytes(body)
            body += await self._reader.readexactly(size)
            await self._reader.readexactly(2)


def parse_head(text):
    """Method, path, version and headers of a request. Raises BadRequest."""
    try:
        first, *rest = text.decode("latin-1").strip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        headers = {}
        for line in rest:
            name, value = line.split(":", 1)
            headers[name.strip().lower()] = value.strip()
    except ValueError:
        raise BadRequest(400, "this is no HTTP request") from None
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(505, "the service speaks HTTP/1.1")
    return method, target.split("?", 1)[0], version, headers


def head(status, headers):
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def cors(request):
    """Any page may use the service, as at E2B; whom it lets in is the affair of the ports of sandboxes."""
    if "origin" not in request.headers:
        return []
    headers = [("access-control-allow-origin", "*")]
    if request.method == "OPTIONS":
        wanted = request.headers.get("access-control-request-headers", "*")
        headers += [
            ("access-control-allow-methods", "GET, POST, DELETE, OPTIONS"),
            ("access-control-allow-headers", wanted),
        ]
    return headers
