"""Sweeps with the command line against a peer, and what became of them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niah.run.store import read
from niah.trial import Record, outcome
from tests.peers.process import Peer
from tests.run.command import here, summary, write_config

KEY = "sk-the-key-of-the-peers-0123456789"
CAP = 12


@dataclass(frozen=True, kw_only=True)
class Swept:
    """How a sweep ended, its records, and (path, status) of what the peer answered meanwhile."""

    code: int
    err: str
    records: list[Record]
    asked: list[tuple[str, int]]
    told: dict[str, Any]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(outcome(record) for record in self.records)

    @property
    def statuses(self) -> list[int]:
        return [status for _, status in self.asked]


def sweep(folder: Path, peer: Peer, model: str, *, out: str = "run", key: str = KEY, words: tuple[str, ...] = (), **fields: Any) -> Swept:
    """Sweep a peer's model, in the working directory: four greedy trials unless said otherwise."""
    shape: dict[str, Any] = {"lengths": [400], "depths": [0.0, 1.0], "reshuffles": 2, "cue": "user", "concurrency": 2}
    config = write_config(folder, models=[model], **{**shape, "sampling": {"max_output_tokens": CAP, "temperature": 0}, **fields})
    before = len(peer.asked())
    variable = "ANTHROPIC_API_KEY" if model.startswith("anthropic/") else "OPENAI_API_KEY" if "responses/" in model else "NIAH_SERVER_KEY"
    done = here("sweep", config, "--base-url", peer.url, "--out", out, *words, **{variable: key, "NO_PROXY": "127.0.0.1"})
    assert key not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    told = summary(folder / out) if (folder / out / "summary.json").exists() else {}
    return Swept(
        code=done.returncode,
        err=done.stderr,
        records=list(read(folder / out)) if (folder / out).exists() else [],
        asked=peer.asked()[before:],
        told=next(iter(told.values()), {}),
    )
