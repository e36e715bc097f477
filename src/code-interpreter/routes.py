"""The six routes of the service, as E2B's code interpreter has them."""

import asyncio
import json
import re

from contexts import NoContext
from http_server import JSON, Answer, json_answer
from kernels import ContextFailure
from line_stream import LineStream

CONTEXT_PATH = re.compile(r"/contexts/([^/]+)\Z")
RESTART_PATH = re.compile(r"/contexts/([^/]+)/restart\Z")


class Invalid(Exception):
    """A body that is not what is expected. `details` is the answer's."""

    def __init__(self, *details):
        super().__init__("invalid body")
        self.details = list(details)


class Routes:
    """Answers requests."""

    def __init__(self, contexts):
        self._contexts = contexts
        # The loop itself holds its tasks weakly.
        self._executions = set()

    async def handle(self, request, connection):
        """The answer to a request; None when it was a stream, which has been sent."""
        methods = self._find(request.path)
        if methods is None:
            return json_answer({"detail": "Not Found"}, 404)
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return Answer(200, "OK")
        answer = methods.get(request.method)
        if answer is None:
            headers = [("allow", ", ".join(methods))]
            return Answer(405, json.dumps({"detail": "Method Not Allowed"}), JSON, headers)
        try:
            return await answer(request, connection)
        except Invalid as problem:
            return json_answer({"detail": problem.details}, 422)
        except NoContext as problem:
            return Answer(404, str(problem))

    def _find(self, path):
        if path == "/health":
            return {"GET": self._health}
        if path == "/execute":
            return {"POST": self._execute}
        if path == "/contexts":
            return {"GET": self._list, "POST": self._create}
        found = CONTEXT_PATH.match(path)
        if found:
            return {"DELETE": lambda *_: self._remove(found[1])}
        found = RESTART_PATH.match(path)
        if found:
            return {"POST": lambda *_: self._restart(found[1])}
        return None

    async def _health(self, _request, _connection):
        return json_answer("OK") if self._contexts.are_ready else Answer(503, "The contexts are being started")

    async def _list(self, _request, _connection):
        return json_answer(self._contexts.views())

    async def _create(self, request, _connection):
        body = read_object(request.body)
        language = take_text(body, "language")
        cwd = take_text(body, "cwd")
        try:
            context = await self._contexts.create(language, cwd)
        except ContextFailure as failure:
            return Answer(500, f"Failed to create context: {failure}")
        return json_answer(context.view())

    async def _restart(self, context_id):
        context = self._contexts.get(context_id)
        try:
            await context.restart()
        except ContextFailure:
            return Answer(500, f"Failed to restart context {context_id}")
        return json_answer(None)

    async def _remove(self, context_id):
        self._contexts.remove(context_id)
        return json_answer(None)

    async def _execute(self, request, connection):
        body = read_object(request.body)
        code = take_text(body, "code", required=True)
        context_id = take_text(body, "context_id")
        language = take_text(body, "language")
        variables = take_variables(body)
        if context_id and language:
            return Answer(400, "Only one of context_id or language can be provided")
        try:
            context = await self._contexts.pick(context_id, language)
        except ContextFailure as failure:
            return Answer(500, f"Failed to create context: {failure}")
        stream = LineStream()
        execution = asyncio.ensure_future(context.execute(code, variables, stream))
        self._executions.add(execution)
        execution.add_done_callback(self._executions.discard)
        if not await connection.stream(request, stream.next_lines):
            stream.leave()
            connection.abort()
        return None


def read_object(body):
    """The body as an object. Raises Invalid."""
    try:
        value = json.loads(body or b"null")
    except ValueError as error:
        problem = {"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {}}
        raise Invalid({**problem, "ctx": {"error": str(error)}}) from None
    if value is None:
        raise Invalid({"type": "missing", "loc": ["body"], "msg": "Field required", "input": None})
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise Invalid({"type": "model_attributes_type", "loc": ["body"], "msg": message, "input": value})
    return value


def take_text(body, name, required=False):
    """A field of text; None when it is absent. Raises Invalid."""
    value = body.get(name)
    if value is None:
        if required and name not in body:
            raise Invalid({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": body})
        if not required:
            return None
    if not isinstance(value, str):
        raise Invalid(not_text(["body", name], value))
    return value


def take_variables(body):
    """The environment of an execution. Raises Invalid."""
    value = body.get("env_vars")
    if value is None:
        return {}
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary"
        raise Invalid({"type": "dict_type", "loc": ["body", "env_vars"], "msg": message, "input": value})
    wrong = [not_text(["body", "env_vars", name], item) for name, item in value.items() if not isinstance(item, str)]
    wrong += [
        {"type": "value_error", "loc": ["body", "env_vars", name], "msg": message, "input": item}
        for name, item in value.items()
        if (message := unusable(name, item)) is not None
    ]
    if wrong:
        raise Invalid(*wrong)
    return value


def unusable(name, value):
    """Why no environment can have the variable; None if it can."""
    if name == "" or "=" in name or "\0" in name:
        return "The name of a variable must not be empty or have = or a zero byte in it"
    return "A value must not have a zero byte in it" if isinstance(value, str) and "\0" in value else None


def not_text(place, value):
    return {"type": "string_type", "loc": place, "msg": "Input should be a valid string", "input": value}
