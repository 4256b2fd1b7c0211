"""Ray, and what comes of calls to its actors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LOOK_SECONDS = 5.0
"""So often a call that takes long is asked whether anybody has found its receiver dead."""


def loaded() -> Any:
    """The package; its own types fit no actor whose class is not known to them."""
    import ray

    return ray


def answer_of(ref: Any, gone: Callable[[], bool], again: Callable[[], Any] | None = None) -> Any:
    """What a call to an actor gave. None when it is `gone` or dead; `again` makes the call anew after a break in the line."""
    ray = loaded()
    while True:
        try:
            return ray.get(ref, timeout=LOOK_SECONDS)
        except ray.exceptions.GetTimeoutError:
            if gone():
                return None
        except ray.exceptions.ActorUnavailableError:
            if again is None:
                return None
            time.sleep(0.2)
            ref, again = again(), None
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
            return None
