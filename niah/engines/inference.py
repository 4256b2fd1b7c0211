"""What engines over torch have in common: choosing a token, the precision of weights, what running out of memory looks like."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from niah.engines import EngineError, Sampling
from niah.engines.checkpoint import first_line


def chooser(sampling: Sampling, device: str) -> Callable[[Any], int]:
    """Takes logits [vocabulary], gives a token."""
    import torch

    if sampling.temperature <= 0:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator(device).manual_seed(sampling.seed)

    def draw(logits: Any) -> int:
        shares, tokens = (logits.float() / sampling.temperature).softmax(-1).sort(descending=True)
        before = shares.cumsum(-1) - shares
        return int(tokens[torch.multinomial(shares * (before < sampling.top_p), 1, generator=generator)])

    return draw


def usable(own: Any, device: str) -> Any:
    """A checkpoint's own dtype, but float32 for half precision on a CPU that would only emulate it: it is up to a hundred times slower."""
    import torch

    supported: Any = torch.ops.mkldnn  # asked as torch asks itself
    native = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(own)
    if device != "cpu" or native is None:
        return own
    return own if getattr(supported, native)() else torch.float32


@contextmanager
def within_memory(device: str) -> Generator[None]:
    """EngineError (memory) in place of whatever says that there is not enough of it."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise EngineError(f"out of memory on {device}: {first_line(error)}", kind="memory") from None
