"""Models that run in this process: a Backend over any Engine. `hf/PATH_OR_ID`, `distkv/bundled`, `infini/PATH#memory-off`."""

from __future__ import annotations

import asyncio
import importlib
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

from niah import engines
from niah.backends import Connection
from niah.engines import Engine, EngineError, Generation, Mapped, Step
from niah.engines.chat import Chat
from niah.engines.checkpoint import Checkpoint, bundled, open_checkpoint
from niah.errors import BadRequest, ContextOverflow, MissingExtra, OutOfMemory, ProviderError, UsageError, did_you_mean
from niah.trial import Cue, Prompt, Reply, Usage, around_context, canonical

ENGINES: Mapping[str, tuple[str, str]] = {
    "distkv": ("niah.engines.distkv.engine", "full"),
    "hf": ("niah.engines.hf", "full"),
    "infini": ("niah.engines.infini.engine", "infini"),
}
"""prefix of a model's name -> module with an `open_engine(folder)`, and the reader in engines/weights/ that `bundled` means.

A module with `OPTIONS` takes one of them, which stands behind a # in the model's name, as `open_engine`'s second argument. One with
`SETTINGS` takes these fields of a `Connection` by their names.
"""
BUNDLED = "bundled"
_OF_RAY = ("ray", "grpc")


class LocalBackend:
    """One model in this process; prompts go to it one at a time, in the order in which they were asked. One whose instances are on a
    cluster takes as many at a time as there are instances.

    What two prompts in a row begin with alike is read once. `notes` are for the user, once the model is `ready`.
    """

    cues: frozenset[Cue] = frozenset(("off", "user", "prefill"))
    preferred_cue: Cue = "prefill"

    def __init__(self, prefix: str, name: str, connection: Connection):
        self._prefix, self._name, self._connection = prefix, name, connection
        self._opened: tuple[Checkpoint, Chat, Engine] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._steps: dict[Event, Step] = {}
        """Of the prompts in work."""
        self.concurrency = connection.instances if connection.cluster and prefix == "distkv" else 1
        self.notes: tuple[str, ...] = ()

    def ready(self) -> None:
        """Have the checkpoint on this machine and read all of it but the weights. UsageError or MissingExtra where that cannot be done."""
        if self._opened is not None:
            return
        path, reader = ENGINES[self._prefix]
        try:
            module = importlib.import_module(path)
            name, option = self._name_and_option(getattr(module, "OPTIONS", ()))
            checkpoint = open_checkpoint(bundled(reader) if name == BUNDLED else name)
            settings = {name: getattr(self._connection, name) for name in getattr(module, "SETTINGS", ())}
            engine: Engine = module.open_engine(checkpoint.folder, *option, **settings)
            chat = Chat(checkpoint.folder, raw=self._connection.raw)
            checkpoint.fetch_weights()
        except ImportError as error:
            extra = "ray" if error.name in _OF_RAY else "local"
            raise MissingExtra(str(error.name or error), extra, f"the model '{self._prefix}/{self._name}'") from None
        except EngineError as error:
            raise self._error(error) from None
        checkpoint = replace(checkpoint, served="#".join((checkpoint.served, *option)))
        self._opened, self.notes = (checkpoint, chat, engine), tuple(chat.notes)

    def _name_and_option(self, known: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The model's name and what stands behind its #, for engines that have options; UsageError for an unknown one."""
        name, mark, option = self._name.rpartition("#")
        if not mark or not known:
            return self._name, ()
        if option not in known:
            raise UsageError(f"model '{self._prefix}/{self._name}': unknown option {option!r}; {did_you_mean(option, known)}")
        return name, (option,)

    @property
    def window_tokens(self) -> int | None:
        """Most of prompt and answer together; None without a bound, and as long as the model is not `ready`."""
        return self._opened[2].window_tokens if self._opened else None

    async def ask(self, prompt: Prompt) -> Reply:
        self.ready()
        left = Event()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(self.concurrency, thread_name_prefix="niah-engine")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, prompt, left)
        except asyncio.CancelledError:
            left.set()
            raise

    def status(self) -> str:
        """How far the prompts in work are, and how fast; "" between prompts."""
        steps = [*self._steps.values()]
        told: list[str] = []
        for phase, what in (("prefill", "reading"), ("decode", "answering")):
            some = [step for step in steps if step.phase == phase]
            if some:
                tokens, total = sum(step.tokens for step in some), sum(step.total for step in some)
                speed = sum(step.tokens / max(step.seconds, 1e-6) for step in some)
                count = f"{len(some)} prompt{'s' * (len(some) > 1)}, " * (len(steps) > 1)
                told.append(f"{what} {count}{tokens:,}{f'/{total:,}' * (phase == 'prefill')}, {speed:,.0f} tokens/s")
        return "; ".join(told)

    def memory_map(self) -> str:
        """Who holds what of a KV cache that several instances share, for a terminal; "" where there is nothing to see."""
        engine = self._opened[2] if self._opened else None
        return engine.memory_map() if isinstance(engine, Mapped) and self._connection.instances > 1 else ""

    async def close(self) -> None:
        """Give the memory back. A prompt asked later reads the weights again."""
        thread, self._thread = self._thread, None
        if thread is not None and self._opened is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._opened[2].close)
            thread.shutdown()

    def _answer(self, prompt: Prompt, left: Event) -> Reply:
        """In the engine's own thread."""
        assert self._opened is not None, "ask() makes it ready"
        checkpoint, chat, engine = self._opened
        started = time.perf_counter()

        def report(step: Step) -> None:
            if left.is_set():
                raise _LeftError
            self._steps[left] = step

        try:
            messages = prompt.messages()
            generation = engine.generate(
                chat.ids(messages, border=_context_end(prompt) if engine.border_after_context else 0),
                prompt.sampling.max_output_tokens,
                stop_ids=chat.stop_ids | engine.stop_ids,
                sampling=_sampling(prompt, messages),
                report=report,
            )
        except EngineError as error:
            raise self._error(error) from None
        finally:
            self._steps.pop(left, None)
        return Reply(
            text=chat.text(generation.ids),
            stop="end" if chat.raw else generation.stop,  # without a template nothing but the cap ends an answer
            usage=Usage(input=generation.prompt_tokens, cached=generation.reused_tokens, output=len(generation.ids)),
            seconds=round(time.perf_counter() - started, 4),
            model=checkpoint.served,
            measured=_measured(generation),
        )

    def _error(self, error: EngineError) -> ProviderError | UsageError:
        """An engine's error as one of niah's."""
        told = f"model '{self._prefix}/{self._name}': {error}"
        kinds: Mapping[str, type[ProviderError]] = {"window": ContextOverflow, "memory": OutOfMemory, "prompt": BadRequest}
        return kinds[error.kind](told) if error.kind in kinds else UsageError(told)


class _LeftError(BaseException):
    """Nobody waits for the answer any more. No Exception, so that no engine takes it for trouble of its own."""


def _context_end(prompt: Prompt) -> int:
    """How many characters of the user's message stand in front of what follows the context; 0 without a context."""
    before, _ = around_context(prompt.layout, prompt.question, "")
    return len(before) + len(prompt.context) if prompt.context else 0


def _measured(generation: Generation) -> dict[str, float]:
    times = {"prefill_seconds": generation.prefill_seconds, "decode_seconds": generation.decode_seconds}
    return {name: round(value, 4) for name, value in {**times, **generation.measured}.items()}


def _sampling(prompt: Prompt, messages: list[dict[str, str]]) -> engines.Sampling:
    """As the experiment asks, else always the likeliest token. The seed comes from the prompt: the same trial draws the same answer."""
    asked = prompt.sampling
    seed = zlib.crc32(canonical(messages).encode())
    return engines.Sampling(temperature=asked.temperature or 0.0, top_p=1.0 if asked.top_p is None else asked.top_p, seed=seed)


def open_local(prefix: str, name: str, connection: Connection) -> LocalBackend:
    """The backend of prefix/name. Nothing is read before it is made `ready`."""
    return LocalBackend(prefix, name, connection)
