"""An agent loop without a model: decide, act in the sandbox, observe, until the task is done. `decide` stands where an
agent would ask its model. The loop meets a command that fails and a command that does not end.

    eval "$(npx firkin env)" && python3 examples/agent_loop.py
"""

from e2b import CommandExitException, Sandbox, TimeoutException

PROGRAM = "print('The sum is', sum(int(line) for line in open('numbers.txt')))\n"


def decide(observation):
    """Chooses the next action from what the last action came to; None: the task is done."""
    if observation.startswith("Task:"):
        return {"write": "sum.py", "text": PROGRAM}
    if observation == "wrote sum.py":
        return {"run": "python3 sum.py", "timeout": 60}
    if "No such file" in observation:
        return {"run": "until test -e numbers.txt; do sleep 1; done", "timeout": 2}
    if observation.startswith("timed out"):
        return {"run": "seq 1 10 > numbers.txt && python3 sum.py", "timeout": 60}
    if observation.startswith("The sum is"):
        return {"write": "report.txt", "text": observation}
    if observation == "wrote report.txt":
        return None
    raise RuntimeError(f"no action is known for this observation: {observation}")


def act(sandbox, action):
    """Does one action and says what came of it. A command that fails or takes too long is an observation, too."""
    if "write" in action:
        sandbox.files.write(action["write"], action["text"])
        return f"wrote {action['write']}"
    try:
        return sandbox.commands.run(action["run"], timeout=action["timeout"]).stdout.strip()
    except CommandExitException as error:
        return f"exit code {error.exit_code}: {error.stderr.strip()}"
    except TimeoutException:
        return f"timed out after {action['timeout']} s, and was killed"


# The sandbox ends by itself after five minutes, should this program not live to kill it.
sandbox = Sandbox.create(timeout=300)
try:
    observation = "Task: report the sum of numbers.txt"
    print(observation)
    while action := decide(observation):
        print(">", action)
        observation = act(sandbox, action)
        print(observation)
    print("report.txt:", sandbox.files.read("report.txt"))
finally:
    sandbox.kill()
