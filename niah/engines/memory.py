"""How much memory is left."""

from __future__ import annotations

import re
from pathlib import Path

_MEMINFO, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int | None:
    """What can still be had on "cuda..." or "cpu" without swapping, within the limit of a container; None where nothing tells."""
    if device.startswith("cuda"):
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    told = [bytes_ for bytes_ in (_machine(), _container()) if bytes_ is not None]
    return min(told, default=None)


def _machine() -> int | None:
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(available[1]) * 1024 if available else None


def _container() -> int | None:
    """Of a control group (version 2); files that were only read count as free."""
    try:
        most = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (_GROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) - used + (int(cached[1]) if cached else 0)


def size(bytes_: int) -> str:
    """For people: 1.5 GB, 20 MB."""
    return f"{bytes_ / 1e9:,.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:,.1f} MB"
