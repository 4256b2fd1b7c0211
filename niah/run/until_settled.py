"""niah sweep --until-settled: a sweep and its verdict."""

from collections.abc import Callable
from pathlib import Path

from niah.config import Experiment
from niah.report.sequential import Rule
from niah.report.verdict import Gate, Verdict, check_gate
from niah.run.runner import Progress
from niah.run.session import state_of
from niah.run.settling import Aim
from niah.run.sides import compare_sides, open_side
from niah.run.sweep import Swept, sweep


def aim_at(baseline: str, gate: Gate) -> Aim:
    """What a sweep is to be held against; UsageError for a gate that means nothing, and for what is no baseline."""
    check_gate(gate)
    return Aim(base=open_side(baseline), rule=Rule(margin=gate.margin, alpha=gate.alpha, max_lost=gate.max_lost))


def sweep_until_settled(
    experiment: Experiment, folder: Path, progress: Progress, confirm: Callable[[float], None], aim: Aim
) -> tuple[Swept, list[Verdict]]:
    """Ask each model until its verdict is certain; the sweep and the verdicts, of the models that were asked."""
    swept = sweep(experiment, folder, progress, confirm, aim=aim)
    gate, asked = Gate(margin=aim.rule.margin, alpha=aim.rule.alpha, max_lost=aim.rule.max_lost), {model for model, _ in state_of(folder)}
    verdicts = [compare_sides(aim.base.name, f"{folder}:{model}", gate) for model in experiment.models if model in asked]
    return swept, verdicts
