"""What the answers of a run cost, for its reports: dollars, tokens, and how much a provider's cache served against what was planned.

The prices come from whoever has them; here is only what is told of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_SHORT = 0.5
"""A reported share below so much of the planned one is clearly short of it."""
_WORTH_TELLING = 0.1
"""Planned shares below this are not worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """One model's answers. `dollars` is None where a price is unknown, never 0; tokens are the planned ones where none were reported.

    The shares are those of the input of live answers: `cached_share` as the provider reported, `planned_cached_share` as
    `niah plan` reckons for these trials. None: nothing was reported, or nothing is to be compared.
    """

    dollars: float | None
    answers: int
    batch_answers: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cached_share: float | None = None
    planned_cached_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """All models of a run or of several, and what may have been charged for answers that never came."""

    models: Mapping[str, Spending]
    lost_dollars: float = 0.0

    @property
    def known_dollars(self) -> float:
        """What the models of known prices cost together."""
        return sum(each.dollars or 0.0 for each in self.models.values())

    @property
    def total(self) -> Spending:
        every = self.models.values()
        return Spending(
            dollars=None if any(each.dollars is None for each in every) else self.known_dollars,
            answers=sum(each.answers for each in every),
            batch_answers=sum(each.batch_answers for each in every),
            input_tokens=sum(each.input_tokens for each in every),
            cached_tokens=sum(each.cached_tokens for each in every),
            output_tokens=sum(each.output_tokens for each in every),
        )

    def to_json(self) -> dict[str, dict[str, Any]]:
        """What summary.json says of each model's cost, and under "total" of all together."""
        total = {**_entry(self.total), "lost_dollars": round(self.lost_dollars, 6)}
        for name in ("cached_share", "planned_cached_share"):
            del total[name]
        return {**{model: _entry(each) for model, each in self.models.items()}, "total": total}

    @property
    def free(self) -> bool:
        """Whether only local readers answered: then there is nothing to tell."""
        return not self.lost_dollars and all(each.dollars == 0 for each in self.models.values())


def table(spent: Spent) -> "Table":
    """One row a model, and their sum where there are several."""
    from rich.table import Table
    from rich.text import Text

    made = Table()
    made.add_column("model", overflow="fold")
    for name in ("cost", "input tokens", "cached", "planned", "output tokens"):
        made.add_column(name, justify="right")
    rows = {**spent.models, **({"all": spent.total} if len(spent.models) > 1 else {})}
    for model, one in rows.items():
        shares = ("", "") if model == "all" else (_share(one.cached_share, one), _share(one.planned_cached_share, one))
        cost = f"{dollars(spent.known_dollars)} + unknown" if model == "all" and _partly(spent) else dollars(one.dollars)
        made.add_row(Text(model), cost, f"{one.input_tokens:,}", *shares, f"{one.output_tokens:,}")
    return made


def _partly(spent: Spent) -> bool:
    return spent.known_dollars > 0 and spent.total.dollars is None


def notes(spent: Spent) -> list[str]:
    """What has to be said in words."""
    said: list[str] = []
    if spent.lost_dollars:
        said.append(f"up to {dollars(spent.lost_dollars)} more may have been charged for answers that never came")
    for model, one in spent.models.items():
        planned, reported = one.planned_cached_share or 0.0, one.cached_share
        if planned >= _WORTH_TELLING and reported is not None and reported < _SHORT * planned:
            said.append(
                f"{model}: its cache served {reported:.0%} of the input, where the plan reckoned with {planned:.0%}: "
                "for the next sweep trust the row `live` of niah plan, not `with prompt caching`"
            )
    return said


def dollars(amount: float | None) -> str:
    """For people: to the cent, and small sums to a hundredth of it."""
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:,.4f}"


def cue_note(cues: Mapping[str, Sequence[str]]) -> str:
    """What models with different cue modes have to say; "" where all have the same."""
    modes = {model: ", ".join(sorted(each)) for model, each in cues.items()}
    if len(set(modes.values())) < 2:
        return ""
    told = "; ".join(f"{model}: {each}" for model, each in modes.items())
    return f"the models were asked with different cues ({told}): their results are not comparable. Choose one for all, as in --cue user"


def _share(share: float | None, one: Spending) -> str:
    return "-" if share is None or one.answers == one.batch_answers else f"{share:.0%}"


def _entry(one: Spending) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(one).items()}
