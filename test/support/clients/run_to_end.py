"""Runs a script and ends the process as soon as the script is done, without taking the interpreter down.

Threads of the SDK's HTTP client are native code, and may abort the process when they want the interpreter while it ends.
"""

import os
import runpy
import sys

sys.argv = sys.argv[1:]
# As `python SCRIPT` does: the script finds the modules beside it.
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
os._exit(0)
