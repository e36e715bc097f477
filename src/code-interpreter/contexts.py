"""The contexts: each is one kernel with an id, a language and a folder, and runs one execution at a time."""

import asyncio
import os
import uuid

from environment import SANDBOX_ID
from kernel_process import KernelDied, KernelProcess, KernelStale
from memory_watch import MemoryWatch
from program_kernel import program_of

FOLDER = os.path.dirname(os.path.abspath(__file__))
FIRST_LANGUAGES = ("python", "javascript")
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
NAMES = {"js": "javascript", "ts": "typescript"}
# Kernels of which one is always ready. JavaScript and TypeScript are the same.
SPARE = {"python": "python", "javascript": "javascript", "typescript": "javascript", "r": "r", "java": "java"}
START_TRIES = 3
# The fork for the next context would take the processor from the one that waits for its kernel.
SPARE_AFTER_S = 0.1


class NoContext(Exception):
    """There is no context with that id."""


class ContextFailure(Exception):
    """A context cannot be made, restarted or removed; the text says why."""


class Context:
    """One context. Its kernel may be replaced; its id, language and folder stay."""

    def __init__(self, kernels, environment, language, cwd):
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._kernels = kernels
        self._environment = environment
        self._lock = asyncio.Lock()
        self._kernel = None
        self._starting = asyncio.Lock()
        self._removed = False

    def view(self):
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def start(self):
        """Starts the kernel and prepares it. Raises ContextFailure."""
        async with self._starting:
            if self._removed or (self._kernel is not None and self._kernel.is_alive):
                return
            kernel = await self._kernels.take(self.language)
            try:
                kernel = await self._prepare_fresh(kernel)
            except ValueError as error:
                kernel.kill("refused")
                raise ContextFailure(f"Failed to set working directory: {error}") from None
            except KernelDied:
                raise ContextFailure("the kernel ended while it was started") from None
            if self._removed:
                kernel.kill("remove")
                return
            self._kernel = kernel
            kernel.died.add_done_callback(lambda _: self._on_death(kernel))

    async def execute(self, code, variables, stream):
        """Runs a cell when its turn has come. The stream ends with this."""
        try:
            async with self._lock:
                if not stream.left.is_set():
                    await self._execute(code, variables, stream)
        finally:
            stream.end()

    async def restart(self):
        """A new kernel; an execution under way ends. Raises ContextFailure."""
        self._end_kernel("restart")
        await self.start()

    def remove(self):
        """Ends the kernel for good."""
        self._removed = True
        self._end_kernel("remove")

    async def _execute(self, code, variables, stream):
        try:
            kernel = await self._ready_kernel()
            if kernel is not None:
                with self._kernels.memory_watch:
                    await kernel.execute(code, variables, stream)
                return
        except ContextFailure as failure:
            stream.error("ContextRestarting", f"Context cannot be started: {failure}")
            return
        except KernelDied as death:
            if death.cause is None:
                stream.error("ContextRestarting", "Context was restarted")
            if death.cause in (None, "exit", "interrupt"):
                return
        stream.error(
            "UnexpectedEndOfExecution", "Connection to the execution was closed before the execution was finished"
        )

    async def _ready_kernel(self):
        """A kernel that has today's environment; None when the context was removed. Raises ContextFailure."""
        for _ in range(START_TRIES):
            await self.start()
            kernel = self._kernel
            if self._removed or kernel is None:
                return None
            try:
                await self._prepare(kernel)
                return kernel
            except KernelDied:
                # It died while it was idle; the next one has nothing to lose.
                continue
        raise ContextFailure("its kernels end at once")

    async def _prepare_fresh(self, kernel):
        """Prepares the kernel, or another when that one is stale: the spare one may be, too, the next is not."""
        for _ in range(START_TRIES):
            try:
                await self._prepare(kernel)
                return kernel
            except KernelStale:
                kernel = await self._kernels.take(self.language)
        await self._prepare(kernel)
        return kernel

    async def _prepare(self, kernel):
        environment = self._environment.read()
        before = kernel.environment
        if before is environment:
            return
        order = {"environment": environment}
        if before is None:
            order["cwd"] = self.cwd
        order["reseed"] = before is None or before.get(SANDBOX_ID) != environment.get(SANDBOX_ID)
        await kernel.prepare(order)
        kernel.environment = environment

    def _end_kernel(self, cause):
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.kill(cause)

    def _on_death(self, kernel):
        """Starts the next kernel at once, so that the next execution need not wait for it."""
        if self._kernel is kernel and not self._removed:
            self._kernel = None
            asyncio.get_running_loop().create_task(self._start_quietly())

    async def _start_quietly(self):
        try:
            await self.start()
        except ContextFailure:
            # The next execution tries again and says why.
            pass


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


class Contexts:
    """All contexts by id, in the order in which they were made."""

    def __init__(self, kernels, environment, home, warming_up):
        """`warming_up` says whether the template's snapshot is still to be taken."""
        self._kernels = kernels
        self._environment = environment
        self._home = home
        self._warming_up = warming_up
        self._contexts = {}
        self._defaults = {}
        self._locks = {}
        self._have_started = False

    @property
    def are_ready(self):
        """Whether the first contexts are there; before the snapshot, whether every spare kernel is as well."""
        return self._have_started and (self._kernels.has_all_spares or not self._warming_up())

    async def start(self):
        """Makes the first contexts. Raises ContextFailure."""
        for language in FIRST_LANGUAGES:
            await self._default(language)
            self._kernels.keep_spare(language)
        await self._kernels.spares()
        self._have_started = True
        # Few need these, and they take longest.
        for language in FULL_ONLY:
            if program_of(language) is not None:
                self._kernels.keep_spare(language)

    async def create(self, language=None, cwd=None):
        """A new context. Raises ContextFailure."""
        context = Context(self._kernels, self._environment, language_name(language) or "python", cwd or self._home)
        await context.start()
        self._contexts[context.id] = context
        return context

    def views(self):
        return [context.view() for context in self._contexts.values()]

    def get(self, context_id):
        """Raises NoContext."""
        context = self._contexts.get(context_id)
        if context is None:
            raise NoContext(f"Context {context_id} not found")
        return context

    async def pick(self, context_id, language):
        """The context for an execution. Raises NoContext, ContextFailure."""
        if context_id:
            return self.get(context_id)
        return await self._default(language_name(language) or "python")

    def remove(self, context_id):
        """Raises NoContext."""
        self.get(context_id).remove()
        del self._contexts[context_id]

    async def _default(self, language):
        lock = self._locks.setdefault(language, asyncio.Lock())
        async with lock:
            context = self._contexts.get(self._defaults.get(language))
            if context is None:
                context = await self.create(language)
                self._defaults[language] = context.id
            return context


def language_name(language):
    """The name of a language as contexts have it; empty for none."""
    name = (language or "").strip().lower()
    return NAMES.get(name, name)
