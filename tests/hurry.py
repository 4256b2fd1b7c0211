"""Waits that pass faster than they are asked for, so that sweeps against servers in trouble do not take the time that they would."""

import asyncio
import time

import pytest

from niah.errors import RetryableError
from niah.run.limits import Patience
from niah.run.pacing import Pacer


def hurry(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    """The waits between tries and the pacer's clock `speed` times faster, in this process; the limit on one answer stays as it is."""
    wait_seconds = Patience.wait_seconds

    def shorter(self: Patience, error: RetryableError, tries: int) -> float | None:
        seconds = wait_seconds(self, error, tries)
        return None if seconds is None else seconds / speed

    monkeypatch.setattr(Patience, "wait_seconds", shorter)
    defaults = Pacer.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "now", lambda: time.monotonic() * speed)
    monkeypatch.setitem(defaults, "sleep", lambda seconds: asyncio.sleep(seconds / speed))
