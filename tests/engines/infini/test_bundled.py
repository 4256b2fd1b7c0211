"""The bundled reader finds in memory what is no longer in sight. `pytest tests/engines/infini/test_bundled.py`"""

from pathlib import Path

import pytest

from niah.engines import BORDER, EngineError, Sampling
from niah.engines.checkpoint import bundled
from niah.engines.infini.engine import InfiniEngine
from niah.task.prompt import CUE
from niah.task.tokens import niah_8k_encoding

pytest.importorskip("safetensors", reason="safetensors is not installed: pip install 'niah[local]'")
try:
    FOLDER = bundled("infini")
except EngineError as absent:
    pytest.skip(str(absent), allow_module_level=True)

BOS, USER, ASSISTANT, END = 8184, 8188, 8189, 8190
FILLER = "The rain is cold. The road is long. The wind is loud. On it goes. Round and round. "
KEY = "The door code is 48213. Remember it. 48213 is the door code. "
SENTENCES = [
    f"The {thing} of {place} {did} in {year}, and {many} people came to see it."
    for year, (thing, place, did, many) in enumerate(
        [
            (thing, place, did, many)
            for thing, many in (("mill", "few"), ("bridge", "many"), ("library", "some"), ("harbour", "hardly any"))
            for place in ("Ostrava", "Leiden", "Cork", "Tartu", "Split", "Turin", "Malmo", "Ghent")
            for did in ("was opened", "burnt down", "was sold", "fell silent", "was painted")
        ],
        1801,
    )
]
NEEDLE = " The beekeeper of Quillon hides her silver trumpet inside the third hive."
QUESTION = "Where does the beekeeper of Quillon hide her trumpet?"


def asked(context: str, *, before: str = "", behind: str = "", memory_off: bool = False) -> str:
    encoding = niah_8k_encoding()
    head = [BOS, USER, *encoding.encode_ordinary(f"{before}\n\n" if before else ""), *encoding.encode_ordinary(context)]
    question = encoding.encode_ordinary(f"\n\n{behind}\n\n{CUE}" if behind else f"\n\n{CUE}")
    engine = InfiniEngine(folder=Path(FOLDER), device="cpu", memory_off=memory_off)
    prompt = [head, BORDER, [*question, END, ASSISTANT]]
    made = engine.generate(prompt, 60, stop_ids=engine.stop_ids, sampling=Sampling(), report=lambda _: None)
    return encoding.decode([token for token in made.ids if token < BOS])


@pytest.mark.parametrize("at", [700, 3000, 9000])
def test_a_key_in_text_that_repeats_itself(at: int) -> None:
    text = FILLER * 220  # about 5,000 tokens
    cut = text.index("The rain", at)
    context = text[:cut] + KEY + text[cut:]
    assert "48213" in asked(context, before="A thing is hidden here.", behind="What is the door code?")
    if at == 3000:
        assert "48213" not in asked(context, before="A thing is hidden here.", behind="What is the door code?", memory_off=True)


def test_a_sentence_that_the_question_in_front_asks_for() -> None:
    """About 4,000 tokens; the needle stands in the first quarter."""
    context = " ".join(SENTENCES[:40]) + NEEDLE + " " + " ".join(SENTENCES[40:])
    assert asked(context, before=QUESTION).strip() == NEEDLE.strip()
    assert "third hive" not in asked(context, before=QUESTION, memory_off=True)
