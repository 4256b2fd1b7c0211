"""Tensors between processes: small ones as bytes, which Ray sends fastest in a message, large ones as arrays, which it does not copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Packed: TypeAlias = Any
"""Bytes or an array of them."""
_SMALL_BYTES = 1 << 16


def packed(tensor: Tensor) -> Packed:
    """What a tensor holds, without shape and dtype. A large one must not change until it has been sent."""
    flat = tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.tobytes() if flat.nbytes <= _SMALL_BYTES else flat


def unpacked(data: Packed, shape: Sequence[int], dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """The tensor again, in memory of its own."""
    tensor = torch.empty(tuple(shape), dtype=dtype)
    raw: Any = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    tensor.view(-1).view(torch.uint8).numpy()[:] = raw
    return tensor.to(device)
