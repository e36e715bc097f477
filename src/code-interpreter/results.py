"""Results and errors of a cell as lines for the client: one JSON object each, ASCII only and without NaN."""

import base64
import json
import math

FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def result_line(bundle, is_main):
    """The line of a result. `bundle` has a value for each MIME type."""
    fields = {}
    extra = {}
    for mime_type, value in bundle.items():
        if isinstance(value, (bytes, bytearray)):
            value = base64.b64encode(value).decode()
        field = FIELDS.get(mime_type)
        if field is None:
            extra[mime_type] = value
        elif value is not None:
            fields[field] = without_quotes(value) if field == "text" else value
    return to_line({"type": "result", **fields, "extra": extra, "is_main_result": is_main})


def error_line(name, value, traceback):
    """The line of an error. All three are text."""
    return to_line({"type": "error", "name": name, "value": value, "traceback": traceback})


def count_line(count):
    """The line with the number of the execution."""
    return to_line({"type": "number_of_executions", "execution_count": count})


def to_line(value):
    """The value as JSON. What JSON does not have becomes null or text."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(plain(value), allow_nan=False)


def plain(value):
    """The value in types that JSON has: no NaN, keys as text, foreign objects as their text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value if type(value) in (bool, int, str, type(None)) else json.loads(json.dumps(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        # NumPy's scalars and arrays.
        return plain(value.tolist())
    return str(value)


def without_quotes(text):
    """The text without one pair of equal quotes around it."""
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
