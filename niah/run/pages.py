"""The HTML page of some runs: what the records, the experiments and the price tables hold goes to niah/report/page.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from niah import __version__
from niah.errors import IncompleteError
from niah.report.page import page
from niah.report.page_data import Details, Fact, NeedleText, Texts, page_data
from niah.report.spending import Spent
from niah.report.stats import Results
from niah.report.write import Written
from niah.run.excerpts import Excerpts
from niah.run.store import describe, write_whole
from niah.task.needles import NeedleSet
from niah.task.score import normalise
from niah.trial import Needle, Record

FILE = "report.html"


class Showing:
    """Gathers what the page shows while somebody else reads the records of some runs. `excerpts` may hold some from before."""

    def __init__(self, folders: Sequence[Path], scorer: str | None = None, excerpts: Excerpts | None = None):
        self._folders = folders
        self._details = Details(scorer)
        self._excerpts = excerpts or Excerpts(folders)

    def add(self, record: Record, dollars: float | None) -> None:
        """Note a record of one of the runs; `dollars` is what its answer cost, None where that is not known."""
        self._details.add(record, dollars)

    def data(self, results: Results, spent: Spent, *, most_seconds: float | None = None) -> dict[str, Any]:
        """The page's data, once all records were read; excerpts for so long as `most_seconds` of CPU time."""
        sets = [NeedleSet.from_json(describe(folder)["needles"]) for folder in self._folders]
        needles = {each.fingerprint: list(map(_told, each.needles)) for each in sets}
        self._excerpts.make(self._details.shown_trials(), most_seconds=most_seconds)
        texts = Texts(needles=needles, excerpts=self._excerpts.made, absent=self._excerpts.absent)
        return page_data(results, self._details, texts, spent=spent, title=_title(results, sorted({each.name for each in sets})))

    def write(self, out: Path, written: Written) -> Path:
        """Write the page beside the other reports."""
        path = out / FILE
        try:
            write_whole(path, page(self.data(written.results, written.spent or Spent(models={}))))
        except OSError as error:
            raise IncompleteError(f"{path} cannot be written: {error.strerror or error}") from None
        return path


def _told(needle: Needle) -> NeedleText:
    forms = (Fact(name=fact[0], forms=tuple(map(normalise, fact))) for fact in needle.answers)
    return NeedleText(id=needle.id, text=needle.text, question=needle.question, facts=tuple(forms))


def _title(results: Results, sets: Sequence[str]) -> list[tuple[str, str]]:
    """What the trials have in common, as pairs of a name and a value; unusual ways of asking only where they apply."""
    found = results.facts
    pairs = [
        ("needles", f"{len(found.needles)} of {', '.join(sets)}"),
        ("corpora", ", ".join(sorted(found.corpora))),
        ("tokenizer", ", ".join(sorted(found.tokenizers))),
        ("cue", ", ".join(sorted(found.cues))),
    ]
    if found.haystacks != {"shared"}:
        pairs.append(("haystacks", ", ".join(sorted(found.haystacks))))
    if found.distractors != {0}:
        pairs.append(("distractors", ", ".join(map(str, sorted(found.distractors)))))
    return [*((name, value) for name, value in pairs if found.needles), ("niah", __version__)]
