"""The contexts: each is one kernel with an id, a language and a folder, and runs one execution at a time."""

import asyncio
import uuid

from environment import SANDBOX_ID
from kernel_process import KernelDied, KernelStale
from kernels import FULL_ONLY, START_TRIES, ContextFailure
from program_kernel import program_of

FIRST_LANGUAGES = ("python", "javascript")
NAMES = {"js": "javascript", "ts": "typescript"}


class NoContext(Exception):
    """There is no context with that id."""


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
