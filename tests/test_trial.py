"""The words' own promises: a trial's key is the hash of its canonical JSON, whatever is remembered between trials."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from niah.trial import Fingerprints, Sampling, Trial, canonical

NAMES = st.text(max_size=6) | st.sampled_from(['{"":0}', "builtin/legal", '"', "\\"])
NUMBERS = st.integers(0, 3) | st.sampled_from([0.0, 1.0, 0.5, 1e-9, 0.1 + 0.2])
DRAWN = st.builds(
    Sampling, max_output_tokens=st.integers(1, 9), temperature=st.none() | NUMBERS, top_p=st.none() | st.sampled_from([0, 0.0, 1, 1.0])
)
TRIALS = st.builds(
    Trial,
    corpus=NAMES,
    needles=st.lists(NAMES, max_size=3).map(tuple),
    length=st.integers(1, 3),
    depths=st.lists(NUMBERS, max_size=3).map(tuple),
    reshuffle=st.integers(0, 3),
    seed=st.integers(-1, 2**70),
    template=NAMES,
    cue=st.sampled_from(["off", "user", "prefill"]),
    sampling=DRAWN,
    tokenizer=NAMES,
    haystack=NAMES,
    distractors=st.integers(0, 2),
    fingerprints=st.builds(Fingerprints, corpus=NAMES, needles=NAMES, tokenizer=NAMES, template=NAMES),
    fitted_length=st.none() | st.integers(0, 2),
)


@given(st.lists(TRIALS, min_size=2, max_size=6))
def test_a_key_is_the_hash_of_the_canonical_json(trials: list[Trial]) -> None:
    """Several in a row: what is remembered of one must not enter another, as 0 and 0.0 might."""
    for trial in trials:
        assert trial.key == hashlib.sha256(canonical(trial.to_json()).encode()).hexdigest()[:32]
