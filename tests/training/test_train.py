"""The training loop: seeded, resumable to the bit, never half written. `pytest tests/training/test_train.py`"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from niah.errors import IncompleteError, UsageError
from niah.training import log
from niah.training import train as module
from niah.training.train import RECENT, Trainer
from tests.training.material import GatedReader, SmallReader, makers, recipe


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums of several threads need not be equal to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An examination takes longer than all steps of these trainings: it is made once, of few needles."""
    monkeypatch.setattr(module, "HELD_OUT_EPISODES", 4)


def trainer(folder: Path, **changes: Any) -> Trainer:
    return Trainer(recipe(**changes), SmallReader(), makers(), folder)


def steps(count: int) -> Any:
    """Stops a training after so many steps: asked once before each."""
    asked = iter(range(count))
    return lambda: next(asked, None) is None


def told(folder: Path) -> list[dict[str, Any]]:
    """The log without what a machine's speed changes."""
    return [{k: v for k, v in row.items() if k != "tokens_per_cpu_second"} for row in log.read(folder / "log.jsonl")]


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return of.reader.model.state_dict()


def ignore(row: log.Row) -> None:
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HELD_OUT_EPISODES", 4)
        made = trainer(tmp_path_factory.mktemp("undisturbed"))
        assert made.run(600, ignore) is True
    return made


def test_it_trains_to_the_recipes_end(undisturbed: Trainer) -> None:
    assert (undisturbed.step, undisturbed.tokens) == (20, 5120)
    rows = told(undisturbed.folder)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 20]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert set(rows[-1]["held_out"]) == {"last 512"}
    assert (undisturbed.folder / "best.pt").is_file()


@pytest.mark.parametrize("stops", [[1], [7], [5, 1, 13]], ids=str)
def test_a_resumed_training_is_the_undisturbed_one_to_the_bit(stops: list[int], undisturbed: Trainer, tmp_path: Path) -> None:
    for count in stops:
        part = trainer(tmp_path)
        part.resume()
        assert part.run(600, ignore, steps(count)) is False
    last = trainer(tmp_path)
    assert last.resume() is True
    assert last.step == sum(stops)
    assert last.run(600, ignore) is True
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(last)[name]), name
    for (one, _), (other, _) in zip(undisturbed.optimisers, last.optimisers, strict=True):
        for a, b in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
    assert told(last.folder) == told(undisturbed.folder)


def test_another_seed_is_another_training(undisturbed: Trainer, tmp_path: Path) -> None:
    other = trainer(tmp_path, seed=1)
    other.run(600, ignore)
    assert any(not torch.equal(tensor, weights(other)[name]) for name, tensor in weights(undisturbed).items())


def test_time_is_up(tmp_path: Path) -> None:
    part = trainer(tmp_path)
    assert part.run(0, ignore) is False
    assert (part.step, part.tokens) == (0, 0)
    assert (tmp_path / "state.pt").is_file()


def test_a_crash_after_the_last_save_leaves_a_log_without_holes_or_doubles(undisturbed: Trainer, tmp_path: Path) -> None:
    part = trainer(tmp_path)
    part.run(600, ignore, steps(10))
    part.run(600, ignore, steps(3))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 15, "tokens": 3840, "loss": 1.0}\n{"step": 20, "tok')
    again = trainer(tmp_path)
    assert again.resume()
    assert again.step == 13
    assert [row["step"] for row in told(tmp_path)] == [5, 10]
    again.run(600, ignore)
    assert told(tmp_path) == told(undisturbed.folder)


@pytest.mark.parametrize("name", ["state.pt", "best.pt"])
def test_a_disk_that_fails_leaves_the_older_files_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = trainer(tmp_path)
    part.run(600, ignore, steps(2))
    part._keep("best.pt", weights(part))
    before = (tmp_path / name).read_bytes()
    real = torch.save

    def fails(what: Any, path: Path) -> None:
        real(what, path)
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="No space"):
        part._keep(name, {})
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "another model", "no checkpoint"])
def test_a_state_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    part = trainer(tmp_path)
    part.run(600, ignore, steps(1))
    path = tmp_path / "state.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "no checkpoint":
        path.write_bytes(b"niah")
    else:
        torch.save({"model": {"x": torch.zeros(1)}}, path)
    with pytest.raises(UsageError, match=r"does not fit this training .*: give another --out"):
        trainer(tmp_path).resume()


def test_numbers_that_run_away_stop_it_and_the_saved_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = trainer(tmp_path)
    part.run(600, ignore, steps(3))
    before = (tmp_path / "state.pt").read_bytes()
    real = part.reader.logits
    monkeypatch.setattr(part.reader, "logits", lambda batch, **given: real(batch, **given) * float("nan"))
    with pytest.raises(IncompleteError, match="step 4 is no number"):
        part.run(600, ignore)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_stages_end_by_recall_or_by_tokens(tmp_path: Path) -> None:
    one = {"tokens": 1000, "lengths": [256], "advance_at": 0.9}
    part = trainer(tmp_path, stages=[one, one, one])
    stage = part.recipe.stages[0]
    part.recent.extend([1.0] * (RECENT - 1))
    part._next_stage(stage)
    assert part.stage == 0  # not sure yet
    part.recent.append(0.0)
    part._next_stage(stage)
    assert (part.stage, part.stage_tokens, len(part.recent)) == (1, 0, 0)
    part.stage_tokens = 1000
    part._next_stage(stage)
    assert part.stage == 2
    part.stage_tokens = 1000
    part._next_stage(stage)
    assert part.stage == 2  # there is none behind it


def test_the_rate_rises_stays_and_falls_to_zero(tmp_path: Path) -> None:
    part = trainer(tmp_path, decay=0.5)
    rates: list[float] = []
    for step, tokens in ((0, 0), (3, 0), (10, 2560), (15, 3840), (19, 5120)):
        part.step, part.tokens = step, tokens
        rates.append(part._rate())
    assert rates == [0.25, 1.0, 1.0, 0.5, 0.0]


def test_every_parameter_learns_once_and_gates_at_their_own_rate(tmp_path: Path) -> None:
    for muon in (0.01, 0.0):
        reader = GatedReader()
        part = Trainer(recipe(muon_learning_rate=muon, gate_learning_rate=0.5), reader, makers(), tmp_path)
        groups = [(base, {id(p) for group in optimiser.param_groups for p in group["params"]}) for optimiser, base in part.optimisers]
        assert sum(len(ids) for _, ids in groups) == len({i for _, ids in groups for i in ids}) == len(list(reader.model.parameters()))
        assert groups[-1] == (0.5, {id(reader.gates()[0])})
        assert [base for base, _ in groups] == [*([muon] if muon else []), part.recipe.adam_learning_rate, 0.5]
        embedding = id(reader.model.embed_tokens.weight)
        assert embedding in dict(groups)[part.recipe.adam_learning_rate]
        assert all(group["weight_decay"] == 0 for optimiser, _ in part.optimisers for group in optimiser.param_groups)


def test_held_out_recall_is_measured_in_every_layout_up_to_the_longest_text(tmp_path: Path) -> None:
    names = [name for name, _, _ in module._examinations(2000, 0.5)]
    assert names == ["last 512", "first 512", "last 1024", "first 1024"]
    assert [name for name, _, _ in module._examinations(256, 1.0)] == ["first 512"]


def test_the_best_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = trainer(tmp_path)
    recalls = iter([0.2, 0.5, 0.4])
    monkeypatch.setattr(part, "_recall", lambda *_: next(recalls))
    for expected in (0.2, 0.5, 0.5):
        part._evaluate()
        assert part.best == expected
        with torch.no_grad():
            part.reader.model.norm.weight.add_(1)
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    assert kept["norm.weight"][0].item() == pytest.approx(2.0)


def test_a_log_reads_as_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert log.read(path) == []
    for step in (5, 10):
        log.append(path, {"step": step, "tokens": step})
    with path.open("a") as file:
        file.write("[1]\n{}\n" + json.dumps({"step": 15})[:-2])
    assert log.read(path) == [{"step": 5, "tokens": 5}, {"step": 10, "tokens": 10}]
    log.cut(path, 7)
    assert path.read_text() == '{"step": 5, "tokens": 5}\n'
