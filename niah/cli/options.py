"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    text = "text"
    json = "json"


Config = Annotated[
    str | None,
    typer.Argument(help="A config's name (quickstart, anthropic, classic, cue-ablation) or a TOML file.", show_default="quickstart"),
]
Model = Annotated[list[str] | None, typer.Option("--model", help="backend/model, as in server/llama or baseline/bm25. May be given again.")]
BaseUrl = Annotated[str | None, typer.Option(help="Where server/ models answer, as in http://127.0.0.1:8000/v1.")]
KeyVariable = Annotated[str | None, typer.Option(help="Environment variable with the key, instead of the usual one.")]
Raw = Annotated[bool | None, typer.Option("--raw", help="server/ and local models are base models: no chat template.")]
Instances = Annotated[int | None, typer.Option(help="How many instances share the KV cache of a distkv/ model.")]
KvMemory = Annotated[str | None, typer.Option(help="KV cache of each of them, as in 256MB.", show_default="what is free")]
Cluster = Annotated[str | None, typer.Option(help="Ray cluster for the instances: auto, local, HOST:PORT or ray://HOST:PORT.")]
Lengths = Annotated[str | None, typer.Option(help="Prompt lengths in tokens, as in 1k,16k,128000.")]
Depths = Annotated[str | None, typer.Option(help="Depths as fractions, as in 0,0.5,1.")]
Reshuffles = Annotated[int | None, typer.Option(help="Trials a cell, spread over the corpora.")]
Corpora = Annotated[list[str] | None, typer.Option("--corpus", help="builtin/NAME, a prepared corpus, or a path. May be given again.")]
Needles = Annotated[str | None, typer.Option(help="A needle set's name or file, or words, numbers, uuids.")]
CueMode = Annotated[str | None, typer.Option(help="off, user, prefill or auto; several separated by commas.")]
Seed = Annotated[int | None, typer.Option(help="Draws the reshuffles and deals the needles.")]
Tokenizer = Annotated[str | None, typer.Option(help="niah-8k, a tiktoken encoding, a tokenizer.json, or provider.")]
Concurrency = Annotated[int | None, typer.Option(help="Requests in flight.", show_default="64 for servers, 1 for local readers")]
MaxCost = Annotated[float | None, typer.Option(help="Stop before the run could have cost more dollars than this.")]
MaxTokens = Annotated[str | None, typer.Option(help="Stop before the run could have used more tokens than this, as in 2M.")]
Rate = Annotated[str | None, typer.Option("--rate", help="Tokens a minute that your account allows, as in 200k: tells the time.")]
UntilSettled = Annotated[bool, typer.Option("--until-settled", help="Stop as soon as the verdict against --baseline is certain.")]
Baseline = Annotated[str | None, typer.Option(help="With --until-settled: a baseline file, a run's folder, or RUN:MODEL.")]
Margin = Annotated[float, typer.Option(help="With --until-settled: by how much recall a model may be worse.")]
Alpha = Annotated[float, typer.Option(help="With --until-settled: the error rate of either verdict.")]
Batch = Annotated[bool, typer.Option("--batch", help="Ask in batches: half the price, answers within a day.")]
