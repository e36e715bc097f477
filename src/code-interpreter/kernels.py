"""The kernels that nobody uses yet: one of each common language is kept ready for the next context."""

import asyncio
import os

from kernel_process import KernelDied, KernelProcess
from memory_watch import MemoryWatch
from program_kernel import program_of

FOLDER = os.path.dirname(os.path.abspath(__file__))
NODE = {"do": "program", "program": ["/usr/bin/env", "node", "--disable-warning=ExperimentalWarning", os.path.join(FOLDER, "javascript", "kernel.mjs")]}
KERNELS = {
    "python": {"do": "python"},
    "javascript": {**NODE, "environment": {}},
    "typescript": {**NODE, "environment": {}},
    "bash": {"do": "bash"},
    "r": {"do": "r"},
    "java": {"do": "java"},
}
# Languages that the lean variant of the template does not have.
FULL_ONLY = ("r", "java")
FULL_COMMAND = "npx firkin template add code-interpreter"
# Kernels of which one is always ready. JavaScript and TypeScript are the same.
SPARE = {"python": "python", "javascript": "javascript", "typescript": "javascript", "r": "r", "java": "java"}
START_TRIES = 3
# The fork for the next context would take the processor from the one that waits for its kernel.
SPARE_AFTER_S = 0.1


class ContextFailure(Exception):
    """A context cannot be made, restarted or removed; the text says why."""


class Kernels:
    """Starts kernels, and keeps one of each common language ready."""

    def __init__(self, fork_client):
        self._fork_client = fork_client
        self._spares = {}
        # Spare kernels that are to be started in a moment, by language.
        self._due = {}
        self._alive = set()
        self.memory_watch = MemoryWatch(lambda: self._alive)

    async def take(self, language):
        """A kernel that nobody has used. Raises ContextFailure."""
        order = KERNELS.get(language)
        if order is None:
            raise ContextFailure(f"there is no kernel for {language!r}; there are {', '.join(KERNELS)}")
        if language in FULL_ONLY and program_of(language) is None:
            raise ContextFailure(
                f"this template is the lean variant, which has no {language}; on the host, "
                f"`{FULL_COMMAND}` makes the full one"
            )
        shelf = SPARE.get(language)
        if shelf is None:
            return await self._start(order)
        kernel = None
        while kernel is None:
            spare = self._spares.pop(shelf, None)
            if spare is None:
                kernel = await self._start(order)
            else:
                try:
                    kernel = await asyncio.shield(spare)
                except ContextFailure:
                    continue
            if not kernel.is_alive:
                kernel = None
        self._keep_spare_later(shelf)
        return kernel

    def keep_spare(self, language):
        """Starts a kernel for the next that asks, if none is ready."""
        if language not in self._spares:
            spare = asyncio.get_running_loop().create_task(self._start(KERNELS[language]))
            # A failure is the affair of the context that wants the kernel.
            spare.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._spares[language] = spare

    def _keep_spare_later(self, language):
        self._due[language] = self._due.get(language, 0) + 1
        asyncio.get_running_loop().call_later(SPARE_AFTER_S, self._keep_due_spare, language)

    def _keep_due_spare(self, language):
        self._due[language] -= 1
        # Of several contexts that were made in a row, the last one has the spare made.
        if self._due[language] == 0:
            self.keep_spare(language)

    async def spares(self):
        """Waits until the spare kernels are ready."""
        await asyncio.gather(*self._spares.values(), return_exceptions=True)

    @property
    def has_all_spares(self):
        """Whether no spare kernel is being started."""
        return not any(self._due.values()) and all(spare.done() for spare in self._spares.values())

    async def _start(self, order):
        for _ in range(START_TRIES):
            try:
                kernel = await KernelProcess.start(self._fork_client, order)
                self._alive.add(kernel)
                kernel.died.add_done_callback(lambda _: self._alive.discard(kernel))
                return kernel
            except (KernelDied, ConnectionError) as error:
                problem = error
        raise ContextFailure(str(problem))
