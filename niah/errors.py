"""The errors that users meet. Each message says in one or two lines what is wrong, where, and what to do.

NiahError
+-- UsageError                 exit 2   an option, a config, a file: the user can mend it
|   +-- CorpusError            exit 2   text that cannot be read or had
|   |   +-- CorpusTooShort     exit 2   too little text for a length that was asked for
|   +-- MissingExtra           exit 2   an optional package is not installed; names its cure
+-- IncompleteError            exit 3   the run could not be finished here (disk full, trials missing)
+-- ProviderError              exit 4   what a model's server or API answered, or did not
    +-- RetryableError                  may go away: rate limit, overload, timeout, reset, 5xx
    +-- ContextOverflow                 the prompt does not fit the model: an outcome of one trial, never a miss
    |   +-- OutOfMemory                 it does not fit this machine, for a local model: the same, and asked again on resume
    +-- Refused                         the provider's filter turns the prompt away: an outcome of one trial, as a refusal in words is
    +-- BadRequest                      the server refuses this request, whatever its size
    +-- BadResponse                     the answer is no chat completion (HTML, broken JSON)
    +-- FatalError                      credentials, unknown model, quota: every further request would fail too
        +-- BudgetError                 the next request could pass the run's own cap
"""

import difflib
from collections.abc import Iterable


class NiahError(Exception):
    """Base of all errors that are shown to users without a traceback."""

    exit_code = 2
    kind = "error"


class UsageError(NiahError):
    """Something the user gave is wrong and can be mended."""

    kind = "usage"


class CorpusError(UsageError):
    """A corpus cannot be read or had."""

    kind = "corpus"


class CorpusTooShort(CorpusError):
    """A corpus holds too little text for a length."""

    kind = "corpus_too_short"


class MissingExtra(UsageError):
    """An optional package is missing."""

    kind = "missing_extra"

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: pip install 'niah[{extra}]'")


class IncompleteError(NiahError):
    """The run stops before its end; what is done is kept."""

    exit_code = 3
    kind = "incomplete"


class ProviderError(NiahError):
    """A model's server or API could not be used."""

    exit_code = 4
    kind = "provider"


class RetryableError(ProviderError):
    """A failure that may go away by itself.

    `kind` is one of rate_limit, overloaded, timeout, connection, server; `wait_seconds` is what the server asked for, if it did.
    `billed` says that the provider may have answered, and so may charge, although the answer did not arrive.
    """

    def __init__(self, message: str, *, kind: str, wait_seconds: float | None = None, billed: bool = False):
        super().__init__(message)
        self.kind = kind
        self.wait_seconds = wait_seconds
        self.billed = billed


class ContextOverflow(ProviderError):
    """The prompt is longer than the model's window."""

    kind = "context_overflow"


class OutOfMemory(ContextOverflow):
    """The prompt does not fit the memory of this machine."""

    kind = "out_of_memory"


class Refused(ProviderError):
    """The provider's content filter turned the prompt away before the model answered."""

    kind = "refused"


class BadRequest(ProviderError):
    """The server refuses the request (another 4xx)."""

    kind = "bad_request"


class BadResponse(ProviderError):
    """The server answered something that is no completion."""

    kind = "bad_response"


class FatalError(ProviderError):
    """Every further request would fail as well: `kind` is credentials, unknown_model, quota or unreachable."""

    def __init__(self, message: str, *, kind: str):
        super().__init__(message)
        self.kind = kind


class BudgetError(FatalError):
    """The next request could pass --max-cost or --max-tokens."""

    def __init__(self, message: str):
        super().__init__(message, kind="budget")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known word, or all of them when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return "known: " + ", ".join(names)
