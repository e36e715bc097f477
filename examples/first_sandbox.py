"""The same as example.mjs with the Python SDK: pip install e2b, export the lines of `npx firkin env`, run this."""

import time

from e2b import Sandbox


def step(name, work):
    started = time.perf_counter()
    result = work()
    print(f"{(time.perf_counter() - started) * 1000:6.0f} ms  {name}")
    return result


sandbox = step("create a sandbox", lambda: Sandbox.create(timeout=60, metadata={"job": "example"}, envs={"A": "1"}))
try:
    result = step("run a command", lambda: sandbox.commands.run('echo "hi, A=$A"; echo err >&2'))
    print(f"           {result.stdout!r} {result.stderr!r}")
    step("write a file", lambda: sandbox.files.write("/home/user/a.txt", "x"))
    print(f"           {step('read it', lambda: sandbox.files.read('a.txt'))!r}")
    print(f"           {' '.join(entry.name for entry in step('list /', lambda: sandbox.files.list('/')))}")
finally:
    step("kill", sandbox.kill)
