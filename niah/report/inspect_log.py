"""The records of one model as a log of inspect_ai (https://inspect.aisi.org.uk/eval-logs.html), for its viewer and its readers.

A log is a zip of JSON files: a header with the results, the summaries of all samples, and each sample by itself. A trial is a sample;
its id is the trial's key. The input is the question: the haystack is not in the records. What is no hit and no miss has no score there
either: a failed call has its error, a cut answer its limit, and the sample's metadata says `outcome` in our words. The recall and its
interval are ours, clustered by text and needle. Equal records give equal bytes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from niah.report.export import placements_of, row_of, value_of
from niah.report.stats import Gathering, summarise
from niah.trial import Needle, Record, Reply, Score, fingerprint, outcome

VERSION = 2
"""Of inspect_ai's log format."""
_EPOCH = 1
_STOPS = {"end": "stop", "length": "max_tokens", "filter": "content_filter", "refusal": "content_filter", "unknown": "unknown"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_ANSWER = 200
"""So many characters of an answer stand beside its score, which every summary repeats; the whole one is in the sample's output."""
_TAKEN = ("text", "scores", "placements", "dollars", "format")
"""Columns of a table that a sample has in places of its own, or that say nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the log says of a run: its name and model, when it began, whether it is finished, its needles by id, and its experiment."""

    name: str
    model: str
    created: str
    finished: bool
    needles: Mapping[str, Needle]
    needle_set: str
    version: str
    experiment: Mapping[str, Any]


class InspectLog:
    """A context that takes one model's records one by one."""

    def __init__(self, path: Path, about: About):
        self._path, self._about = path, about
        self._gathering = Gathering()
        self._summaries: list[dict[str, Any]] = []
        self._sums: dict[str, list[float]] = {}
        self._usage: dict[str, int] = {}
        self._times: list[str] = []

    def __enter__(self) -> "InspectLog":
        self._zip = ZipFile(self._path, "w", ZIP_DEFLATED)
        self._put("_journal/start.json", {"version": VERSION, "eval": self._spec(None), "plan": {}})
        return self

    def add(self, record: Record, dollars: float | None) -> None:
        self._gathering.add(record, dollars)
        self._times.append(record.at)
        sample = self._sample(record, dollars)
        self._put(f"samples/{sample['id']}_epoch_{_EPOCH}.json", sample)
        left = {"messages", "output", "error", "limit", "events", "store", "attachments"}
        summary = {name: value for name, value in sample.items() if name not in left}
        failed, limit = sample.get("error"), sample.get("limit")
        summary |= {"error": failed["message"]} if failed else {}
        summary |= {"limit": limit["type"]} if limit else {}
        self._summaries.append({**summary, "completed": True, "message_count": len(sample["messages"])})
        for name, score in sample.get("scores", {}).items():
            self._sums.setdefault(name, []).append(score["value"])
        for name, count in sample["model_usage"].get(self._about.model, {}).items():
            self._usage[name] = self._usage.get(name, 0) + count

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._zip:
            if error is None:
                self._put("summaries.json", self._summaries)
                self._put("header.json", self._header())

    def _put(self, name: str, value: Any) -> None:
        """One file in the zip, with the same date in every log. NaN and the like never occur in records."""
        entry = ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        entry.compress_type = ZIP_DEFLATED
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._zip.writestr(entry, _SURROGATE.sub(lambda half: f"\\\\u{ord(half[0]):04x}", text).encode())

    def _spec(self, ids: Sequence[str] | None) -> dict[str, Any]:
        about, experiment = self._about, self._about.experiment
        identity = fingerprint([about.name, about.model, about.created])
        drawn = {name: experiment["sampling"].get(other) for name, other in _DRAWN.items()}
        dataset = {"name": f"needles {about.needle_set}", "samples": len(ids or ()), "sample_ids": list(ids or ()), "shuffled": False}
        return {
            "eval_id": f"{identity}-eval",
            "run_id": f"{identity}-run",
            "task_id": f"{identity}-task",
            "created": about.created,
            "task": "niah",
            "task_display_name": f"needle in a haystack: {about.name}",
            "task_args": {name: experiment[name] for name in ("corpora", "lengths", "depths", "reshuffles", "tokenizer", "seed")},
            "dataset": dataset,
            "model": about.model,
            "model_generate_config": {name: value for name, value in drawn.items() if value is not None},
            "config": {"epochs": _EPOCH},
            "packages": {"niah": about.version},
            "scorers": [{"name": name} for name in self._sums] or None,
        }

    def _header(self) -> dict[str, Any]:
        ids = [summary["id"] for summary in self._summaries]
        return {
            "version": VERSION,
            "status": "success" if self._about.finished else "cancelled",
            "eval": self._spec(ids),
            "plan": {},
            "results": self._results(),
            "stats": {
                "started_at": self._about.created,
                "completed_at": max(self._times, default=""),
                "model_usage": {self._about.model: self._usage} if self._usage else {},
            },
        }

    def _results(self) -> dict[str, Any]:
        """Of the first scorer our recall with its interval; of the others, over the same samples, the mean."""
        made = self._gathering.results()
        cells = [cell for there in made.cells.values() for cell in there]
        one = summarise(cells, [point for there in made.points.values() for point in there])
        scores: list[dict[str, Any]] = []
        for number, (name, values) in enumerate(self._sums.items()):
            ours = {"recall": one.recall, "low": one.low, "high": one.high}
            metrics = ours if number == 0 else {"mean": sum(values) / len(values)}
            scores.append(
                {
                    "name": name,
                    "scorer": name,
                    "scored_samples": len(values),
                    "unscored_samples": len(self._summaries) - len(values),
                    "metrics": {label: {"name": label, "value": value} for label, value in metrics.items() if value is not None},
                }
            )
        failed = sum("error" in summary for summary in self._summaries)
        return {"total_samples": len(self._summaries), "completed_samples": len(self._summaries) - failed, "scores": scores}

    def _sample(self, record: Record, dollars: float | None) -> dict[str, Any]:
        """A trial. Everything of its record that has no place of its own stands in the metadata, by the names of a table's columns."""
        about, asked = self._about, [self._about.needles[id_] for id_ in record.trial.needles]
        question = "\n\n".join(needle.question for needle in asked)
        told = {name: value for name, value in row_of(record, dollars).items() if name not in _TAKEN and value is not None}
        sample: dict[str, Any] = {
            "id": record.trial.key,
            "epoch": _EPOCH,
            "input": question,
            "target": [fact[0] for needle in asked for fact in needle.answers],
            "messages": [{"id": "question", "role": "user", "content": question}],
            "output": {"model": about.model, "choices": []},
            "metadata": {**told, "placements": placements_of(record)},
            "model_usage": {},
            "completed_at": record.at,
            "uuid": fingerprint([about.model, record.trial.key]),
            "events": [],
            "store": {},
            "attachments": {},
        }
        if record.reply is not None:
            sample |= _answered(record, record.reply, dollars, about.model)
            sample["messages"] = [*sample["messages"], sample["output"]["choices"][0]["message"]]
        if record.error is not None:
            sample["error"] = {"message": f"{record.error.kind}: {record.error.message}", "traceback": "", "traceback_ansi": ""}
        if outcome(record) == "cut":
            sample["limit"] = {"type": "token", "limit": record.trial.sampling.max_output_tokens}
        if value_of(record) is not None:
            sample["scores"] = {score.scorer: _score(score, record) for score in record.scores}
        return sample


def _answered(record: Record, reply: Reply, dollars: float | None, model: str) -> dict[str, Any]:
    """What a sample says of its answer."""
    usage, asked = reply.usage, reply.usage.input if reply.usage.input is not None else record.tokens
    counts = {
        "input_tokens": max(0, asked - (usage.cached or 0) - (usage.cache_write or 0)),  # inspect_ai's own do not hold cached ones
        "output_tokens": usage.output or 0,
        "total_tokens": asked + (usage.output or 0),
        "input_tokens_cache_read": usage.cached,
        "input_tokens_cache_write": usage.cache_write,
        "reasoning_tokens": usage.reasoning,
    }
    counted = {name: count for name, count in counts.items() if count is not None}
    message = {"id": "answer", "role": "assistant", "content": reply.text, "source": "generate", "model": reply.model or model}
    return {
        "output": {
            "model": reply.model or model,
            "choices": [{"message": message, "stop_reason": _STOPS[reply.stop]}],
            "completion": reply.text,
            "usage": counted | ({"total_cost": dollars} if dollars is not None else {}),
            "time": reply.seconds,
        },
        "model_usage": {model: counted},
        "total_time": reply.seconds,
        "working_time": reply.seconds,
    }


def _score(score: Score, record: Record) -> dict[str, Any]:
    assert record.reply is not None, "what has a score has a reply"
    return {
        "value": score.value,
        "answer": record.reply.text[:_ANSWER],
        "explanation": score.why,
        "metadata": {"found": list(score.found)},
    }


_DRAWN = {"max_tokens": "max_output_tokens", "temperature": "temperature", "top_p": "top_p"}
