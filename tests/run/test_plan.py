"""The plan: needles dealt evenly, corpora in turn, every trial once, and what is checked before anything is asked."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.errors import CorpusTooShort, UsageError
from niah.run.overview import overview
from niah.run.plan import Plan, gather
from niah.task.deal import deal
from tests.run.command import experiment, here, write_config, write_corpus


def even(counts: np.ndarray) -> bool:
    return int(counts.max()) - int(counts.min()) <= 1


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 24), st.integers(0, 2**32))
def test_needles_are_dealt_evenly_everywhere(needles: int, lengths: int, depths: int, reshuffles: int, seed: int) -> None:
    """The counts of any two needles differ by at most one: in all, at each length, at each depth and in each cell."""
    dealt = deal(needles, lengths, depths, reshuffles, seed)
    assert dealt.shape == (lengths, depths, reshuffles)
    assert even(np.bincount(dealt.ravel(), minlength=needles))
    assert all(even(np.bincount(dealt[i].ravel(), minlength=needles)) for i in range(lengths))
    assert all(even(np.bincount(dealt[:, j].ravel(), minlength=needles)) for j in range(depths))
    assert all(even(np.bincount(dealt[i, j], minlength=needles)) for i in range(lengths) for j in range(depths))
    assert (dealt == deal(needles, lengths, depths, reshuffles, seed)).all()


def test_another_seed_deals_otherwise() -> None:
    """The published protocol's numbers: 30 needles, 8 lengths, 11 depths, 20 reshuffles."""
    assert (deal(30, 8, 11, 20, 1) != deal(30, 8, 11, 20, 2)).any()


def test_twenty_reshuffles_are_spread_over_four_corpora(folder: Path) -> None:
    """Five a corpus in every cell; every trial has its own key; trials come reshuffle by reshuffle, lengths in order within."""
    names = ("one", "two", "three", "four")
    config = write_config(folder, corpora=names, reshuffles=20)
    made = experiment(config)
    plan = Plan(made, gather(made))
    trials = list(plan.trials(("off", "user")))
    assert len(trials) == len({trial.key for trial in trials}) == plan.count(("off", "user")) == 2 * 3 * 20 * 2
    spread = Counter((trial.length, trial.depths, trial.cue, trial.corpus) for trial in trials)
    assert set(spread.values()) == {5}
    assert {trial.corpus for trial in trials} == set(names)
    order = [(trial.reshuffle, trial.length, trial.depths) for trial in trials]
    assert order == sorted(order)
    assert {trial.fingerprints.corpus for trial in trials} == {c.fingerprint for c in plan.materials.corpora.values()}


def test_keys_change_with_whatever_changes_a_prompt(folder: Path) -> None:
    """Seed, corpus text, needles, template, cap: each gives other keys; the same experiment gives the same."""
    config = write_config(folder, reshuffles=1)

    def keys(**overrides: object) -> set[str]:
        made = experiment(config, **overrides)
        return {trial.key for trial in Plan(made, gather(made)).trials(("user",))}

    base = keys()
    assert base == keys()
    for change in ({"seed": 1}, {"template": "plain"}, {"haystack": "independent"}, {"sampling": {"max_output_tokens": 9}}):
        assert not base & keys(**change)
    (folder / "corpus" / "00.txt").write_text("Other text stands here. " * 40)
    assert not base & keys()


def test_a_length_that_cannot_be_made_is_told_before_anything_is_asked(folder: Path) -> None:
    """Too long for the corpus, too short for the needle: exit 2 with what to do, no folder, no request."""
    write_corpus(folder / "small", documents=3)
    long = write_config(folder, name="long", corpora=["small"], lengths=[300, 50_000])
    made = experiment(long)
    plan = Plan(made, gather(made))
    with pytest.raises(CorpusTooShort):
        plan.check(("user",))
    address = ("--base-url", "http://127.0.0.1:1/v1", "--out", "run")
    for words, told in (((long, *address), "too few"), ((write_config(folder, lengths=[60]), *address), "at least")):
        done = here("sweep", *words)
        assert done.returncode == 2
        assert told in done.stderr
        assert not (folder / "run").exists()


def test_the_overview_counts_what_the_sweep_asks(folder: Path) -> None:
    """Trials and tokens for each model and in sum; several cue modes multiply."""
    config = write_config(folder, models=["server/a", "baseline/bm25"], cue=["off", "user"], base_url="http://127.0.0.1:1/v1")
    facts = overview(experiment(config))
    assert facts["models"]["server/a"]["trials"] == facts["models"]["baseline/bm25"]["trials"] == 2 * 3 * 3 * 2
    assert facts["total"]["trials"] == 72
    assert facts["total"]["input_tokens"] == 2 * (300 + 500) * 3 * 3 * 2


def test_two_corpora_of_one_name_are_refused(folder: Path) -> None:
    """Records tell corpora apart by name."""
    for place in ("a/text", "b/text"):
        write_corpus(folder / place, documents=2)
    with pytest.raises(UsageError, match="two corpora are called 'text'"):
        gather(experiment(write_config(folder, corpora=["a/text", "b/text"])))
