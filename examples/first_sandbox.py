"""The first sandbox: creates one, runs a command, moves a file, and prints the time that each step took.

    eval "$(npx firkin env)" && python3 examples/first_sandbox.py
"""

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
