"""The training loop: seeded, resumable, the same command on CPU and GPU.

Everything is written into one folder: `state.pt` (weights, optimisers, where in the recipe; replaced as a whole), `best.pt`
(the weights that recalled most held-out needles, likewise) and `log.jsonl` (a line every few steps, appended).
"""

import math
import pickle
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from niah.engines.checkpoint import first_line
from niah.engines.inference import usable
from niah.errors import IncompleteError, UsageError
from niah.training import log
from niah.training.batches import Marks, grade
from niah.training.episodes import Episode, Maker, Shape
from niah.training.muon import RelativeMuon
from niah.training.recipe import Recipe, Stage

SAVE_SECONDS = 120.0
EVALUATE_STEPS = 100
HELD_OUT_EPISODES = 60
LOG_STEPS = 5
RECENT = 30


class Reader(Protocol):
    """A model under training: the logits [A, vocabulary] of a batch's answer tokens, and extra losses by name."""

    @property
    def model(self) -> nn.Module: ...

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Starts from a checkpoint's weights. RuntimeError when they are of another model."""
        ...

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> Any:
        """A `Batch` or `TurnBatch`; with `rng`, positions and whatever else may vary in training are drawn."""
        ...

    def logits(self, batch: Any, *, virtual_times: float) -> Tensor: ...
    def extra_losses(self, batch: Any) -> dict[str, Tensor]: ...
    def gates(self) -> list[nn.Parameter]: ...
    def heads(self) -> dict[int, tuple[int, int]]:
        """By the id of each attention matrix: its dimension that holds the heads one after the other, and how many they are."""
        ...


class Trainer:
    """Runs a recipe. `makers` are the training and the held-out episode makers."""

    def __init__(self, recipe: Recipe, reader: Reader, makers: tuple[Maker, Maker], folder: Path, device: str = "cpu"):
        reader.model.to(device)
        self.recipe, self.reader, self.folder, self.device = recipe, reader, folder, device
        self._half = usable(torch.bfloat16, device) == torch.bfloat16
        self.train_episodes, self.held_out = makers
        self.optimisers = _optimisers(recipe, reader)
        self.step, self.tokens, self.stage, self.stage_tokens, self.best = 0, 0, 0, 0, -1.0
        self.recent: deque[float] = deque(maxlen=RECENT)
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Starts from a checkpoint's weights instead of the reader's own. RuntimeError when they are of another model."""
        self.reader.begin(weights)
        self.optimisers = _optimisers(self.recipe, self.reader)

    def run(self, seconds: float, say: Callable[[log.Row], None], stop: Callable[[], bool] = lambda: False) -> bool:
        """Trains until the recipe ends (True), or `seconds` have passed or `stop` says so (False); the state is saved either way.

        IncompleteError when the numbers run away; what was saved before stays.
        """
        end, saved = time.monotonic() + seconds, time.monotonic()
        while self.tokens < self.recipe.total_tokens and time.monotonic() < end and not stop():
            marks, row = self._advance()
            if self.step % LOG_STEPS == 0:
                say(self._log(row | {"loss": marks.loss.item(), "exact": marks.exact, "first": marks.first, "token": marks.token}))
            if self.step % EVALUATE_STEPS == 0:
                say(self._log(self._evaluate()))
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        if not stop():
            say(self._log(self._evaluate()))
        self.save()
        return self.tokens >= self.recipe.total_tokens

    def _advance(self) -> tuple[Marks, dict[str, Any]]:
        started = time.process_time()
        # Every step draws from its own seed: a resumed run sees what an undisturbed one would have seen.
        rng = random.Random(f"{self.recipe.seed} {self.step}")
        stage = self.recipe.stages[self.stage]
        tokens = rng.choice(stage.lengths)
        batch = self._batch(rng, stage, tokens).to(self.device)
        rate = self._rate()
        for optimiser, base in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = base * rate
        with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            marks = grade(self.reader.logits(batch, virtual_times=math.exp(rng.random() * math.log(stage.virtual_times))), batch)
        extra = self.reader.extra_losses(batch)
        torch.stack([marks.loss, *extra.values()]).sum().backward()
        norm = float(nn.utils.clip_grad_norm_(self.reader.model.parameters(), self.recipe.clip))
        if not math.isfinite(norm):
            raise IncompleteError(
                f"the gradient of step {self.step + 1:,} is no number; the state saved before it is kept: lower the recipe's rates"
            )
        for optimiser, _ in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.tokens
        self.stage_tokens += batch.tokens
        self.recent.append(marks.exact)
        self._next_stage(stage)
        seconds = time.process_time() - started
        row = {"length": tokens, "rate": rate, "norm": norm, "tokens_per_cpu_second": batch.tokens / seconds}
        return marks, row | {name: value.item() for name, value in extra.items()}

    def _batch(self, rng: random.Random, stage: Stage, tokens: int) -> Any:
        count = max(1, self.recipe.batch_tokens // tokens)
        low, high = (max(1, round(share * tokens / 1024)) for share in stage.needles_per_1k)
        shape = Shape(
            tokens=tokens, needles=(low, high), near_misses=stage.near_misses, question_first=stage.question_first,
            real_sentences=stage.real_sentences, random_sentences=stage.random_sentences, passkeys=stage.passkeys, repeated=stage.repeated,
        )  # fmt: skip
        episodes = [self.train_episodes.episode(rng, shape) for _ in range(count)]
        return self.reader.collate(episodes, tokens, rng)

    def _next_stage(self, stage: Stage) -> None:
        sure = len(self.recent) == RECENT and sum(self.recent) / RECENT >= stage.advance_at
        if (sure or self.stage_tokens >= stage.tokens) and self.stage + 1 < len(self.recipe.stages):
            self.stage += 1
            self.stage_tokens = 0
            self.recent.clear()

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        left = 1 - self.tokens / self.recipe.total_tokens
        return warm * min(1.0, left / self.recipe.decay) if self.recipe.decay else warm

    def _evaluate(self) -> dict[str, Any]:
        """Exact-sentence recall of held-out frames in held-out documents, one needle a text."""
        stage = self.recipe.stages[self.stage]
        row: dict[str, Any] = {}
        for name, tokens, first in _examinations(max(stage.lengths), stage.question_first):
            rng = random.Random(f"held out {name}")
            shape = Shape(
                tokens=tokens, needles=(1, 1), near_misses=0, real_sentences=0, random_sentences=0, noise="documents", cue_off=0,
                question_first=first,
            )  # fmt: skip
            row[name] = self._recall([self.held_out.episode(rng, shape) for _ in range(HELD_OUT_EPISODES)], tokens)
        mean = sum(row.values()) / len(row)
        if mean > self.best:
            self.best = mean
            self._keep("best.pt", self.reader.model.state_dict())
        return {"held_out": row, "mean": mean}

    def _recall(self, episodes: list[Episode], tokens: int) -> float:
        exact, rows = 0.0, max(1, 8192 // tokens)
        self.reader.model.eval()
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            for start in range(0, len(episodes), rows):
                batch = self.reader.collate(episodes[start : start + rows], tokens, None).to(self.device)
                marks = grade(self.reader.logits(batch, virtual_times=1.0), batch)
                exact += marks.exact * marks.answers
        self.reader.model.train()
        return round(exact / len(episodes), 4)

    def _log(self, row: log.Row) -> log.Row:
        row = {"step": self.step, "tokens": self.tokens, "stage": self.stage} | {name: _short(value) for name, value in row.items()}
        log.append(self.folder / "log.jsonl", row)
        return row

    def save(self) -> None:
        """Replaces the saved state as a whole."""
        state = {
            "model": self.reader.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
            "recent": list(self.recent),
            "counts": (self.step, self.tokens, self.stage, self.stage_tokens, self.best),
        }
        self._keep("state.pt", state)

    def _keep(self, name: str, what: Any) -> None:
        torch.save(what, self.folder / f"{name}.new")
        (self.folder / f"{name}.new").replace(self.folder / name)

    def resume(self) -> bool:
        """Goes on where the folder's state stands; False when there is none. UsageError when it is of another recipe, or damaged."""
        path = self.folder / "state.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.reader.model.load_state_dict(state["model"])
            for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step, self.tokens, self.stage, self.stage_tokens, self.best = state["counts"]
            self.recent.extend(state["recent"])
        except (RuntimeError, ValueError, TypeError, LookupError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise UsageError(f"{path} does not fit this training ({first_line(error)}): give another --out") from None
        log.cut(self.folder / "log.jsonl", self.step)
        return True


def _examinations(longest: int, question_first: float) -> Iterator[tuple[str, int, float]]:
    for tokens in (512, 1024, 2048, 4096):
        if tokens <= max(longest, 512):
            if question_first < 1:
                yield f"last {tokens}", tokens, 0.0
            if question_first > 0:
                yield f"first {tokens}", tokens, 1.0


def _optimisers(recipe: Recipe, reader: Reader) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the layers, AdamW for the rest; gates learn at their own rate. Nothing decays."""
    gates = {id(p) for p in reader.gates()}
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in reader.model.named_parameters():
        if parameter.requires_grad and id(parameter) not in gates:
            inside = parameter.ndim == 2 and "embed" not in name and not name.startswith("head")
            (matrices if inside and recipe.muon_learning_rate else rest).append(parameter)
    made: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.AdamW(rest, lr=recipe.adam_learning_rate, betas=(0.9, 0.98), weight_decay=0.0), recipe.adam_learning_rate)
    ]
    if matrices:
        muon = RelativeMuon(matrices, recipe.muon_learning_rate, reader.heads())
        made.insert(0, (muon, recipe.muon_learning_rate))
    if gates:
        made.append((torch.optim.AdamW(reader.gates(), lr=recipe.gate_learning_rate, weight_decay=0.0), recipe.gate_learning_rate))
    return made


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
