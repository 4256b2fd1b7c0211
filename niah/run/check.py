"""One small trial of a model, and what it tells of a sweep: does it answer, how does it count, what would go wrong."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from niah.backends import Backend, open_backend
from niah.backends.models import Capabilities
from niah.backends.rates import RateLimit, heard_by
from niah.backends.remote import RemoteBackend
from niah.config import Experiment
from niah.errors import ProviderError
from niah.run.money import estimate
from niah.run.plan import Plan, gather
from niah.run.sweep import capabilities_of, connection_of
from niah.task.prompt import resolve_cue
from niah.task.score import contains
from niah.task.snapshot import cache_folder
from niah.trial import Prompt, Reply

MUCH = 0.02
"""A count that differs from ours by more than this share is worth a word."""
_SOON_DAYS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found: facts in the order of telling, and warnings."""

    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def check_model(experiment: Experiment) -> Checked:
    """Send the first trial of an experiment to its first model. Raises ProviderError in its kinds when there is no answer."""
    model = experiment.models[0]
    backend = open_backend(model, connection_of(experiment))
    backend.ready()
    plan = Plan(experiment, gather(experiment, cache=cache_folder()))
    trial = next(plan.trials((resolve_cue("auto", backend.preferred_cue),)))
    prompt = plan.materials.maker.make(trial)
    heard: list[RateLimit] = []
    reply, counted = asyncio.run(_ask(backend, prompt, heard))
    score = contains([plan.materials.needles.by_id()[trial.needles[0]]], reply)
    known = capabilities_of(backend)
    facts = (
        ("answered by", reply.model or "it does not say"),
        ("answer", f"{reply.text[:100]!r} ({reply.stop}), {'found' if score.value == 1 else score.why}"),
        ("seconds", f"{reply.seconds:.2f}"),
        ("tokens of the prompt", _tokens(prompt, reply, counted)),
        ("window", f"{known.window_tokens:,} tokens" if known.window_tokens else "unknown"),
        ("cue", f"{prompt.cue_mode}; prefill is {_prefill(backend, known)}"),
        ("thinking", known.thinking or "unknown"),
        ("rate limits", _limits(heard)),
        ("prices", _prices(experiment, known)),
    )
    return Checked(facts=facts, warnings=tuple(_warnings(experiment, known, reply)))


async def _ask(backend: Backend, prompt: Prompt, heard: list[RateLimit]) -> tuple[Reply, int | None]:
    try:
        with heard_by(heard.append):
            reply = await backend.ask(prompt)
        try:
            counted = await backend.count(prompt) if isinstance(backend, RemoteBackend) else None
        except ProviderError:
            counted = None  # many servers have no such endpoint
        return reply, counted
    finally:
        await backend.close()


def _tokens(prompt: Prompt, reply: Reply, counted: int | None) -> str:
    told = [f"{prompt.tokens:,} by ours"]
    if reply.usage.input is not None:
        told.append(f"{reply.usage.input:,} reported ({reply.usage.input / prompt.tokens - 1:+.0%})")
    if counted is not None:
        told.append(f"{counted:,} by its count endpoint")
    return ", ".join(told)


def _prefill(backend: Backend, known: Capabilities) -> str:
    if "prefill" not in backend.cues:
        return "not possible"
    return "accepted" if known.prefill else "untried: this server may refuse or ignore it"


def _limits(heard: list[RateLimit]) -> str:
    if not heard:
        return "none in the headers"
    last = heard[-1]
    told = [(last.limit_requests, "requests"), (last.limit_tokens, "tokens")]
    return ", ".join(f"{limit:,.0f} {what} a minute" for limit, what in told if limit) or "none in the headers"


def _prices(experiment: Experiment, known: Capabilities) -> str:
    bill = estimate(experiment, 1, known)
    return "unknown" if bill.live_dollars is None else f"{known.source}; this experiment costs about ${bill.live_dollars:,.2f}"


def _warnings(experiment: Experiment, known: Capabilities, reply: Reply) -> list[str]:
    found: list[str] = []
    if known.window_tokens and experiment.lengths[-1] > known.window_tokens:
        found.append(f"the longest prompt, {experiment.lengths[-1]:,} tokens, is above the window of {known.window_tokens:,}")
    if reply.stop == "length":
        found.append(f"the answer was cut at {experiment.sampling.max_output_tokens:,} tokens: raise sampling.max_output_tokens")
    if not reply.text.strip():
        found.append("the answer is empty")
    if reply.usage.input is None:
        found.append("it reports no input tokens: a prompt that it cuts in silence could not be noticed")
    if known.sampling is False and (experiment.sampling.temperature is not None or experiment.sampling.top_p is not None):
        found.append("it takes no temperature and no top_p: they are not sent")
    if known.retires and (datetime.fromisoformat(known.retires).replace(tzinfo=UTC) - datetime.now(UTC)).days < _SOON_DAYS:
        found.append(f"it retires on {known.retires}")
    return found
