"""Pause and fork: a process with a number in its memory goes on after a pause, and after a fork it goes on twice.

    eval "$(npx firkin env)" && python3 examples/pause_and_fork.py
"""

from e2b import Sandbox

# Adds one for every line that it reads, and prints the number. The number is nowhere but in its memory.
COUNTER = "n=0; while read -r line; do n=$((n + 1)); echo $n; done"


def count(sandbox, pid):
    """Sends the counter a line and gives the number that it answers."""
    connected = sandbox.commands.connect(pid)
    sandbox.commands.send_stdin(pid, "next\n")
    number = next(stdout for stdout, _, _ in connected if stdout is not None)
    connected.disconnect()
    return number.strip()


sandbox = Sandbox.create(timeout=300)
forks = []
try:
    pid = sandbox.commands.run(COUNTER, background=True, stdin=True, timeout=0).pid
    print("the counter says", count(sandbox, pid))

    sandbox.pause()
    print(f"the sandbox is {sandbox.get_info().state.value} and its processes stand still")
    sandbox.connect()
    print("after the resume the counter says", count(sandbox, pid))

    for fork in sandbox.fork(count=2, timeout=300):
        if isinstance(fork, Exception):
            raise fork
        forks.append(fork)
    numbers = [count(each, pid) for each in [sandbox, *forks]]
    print("the counters of the sandbox and its two forks say", ", ".join(numbers))
finally:
    for each in [sandbox, *forks]:
        each.kill()
