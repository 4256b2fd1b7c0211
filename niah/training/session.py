"""A training from its recipe to a checkpoint folder: what `niah train` runs, and resumes."""

import json
import pickle
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from niah.engines.checkpoint import bundled, first_line
from niah.engines.infini.checkpoint import save_checkpoint
from niah.errors import UsageError
from niah.task.corpus import Corpus, open_corpus
from niah.training.addresses import SHAPE
from niah.training.convert import Conversion, ConvertedReader, converted, is_convertible
from niah.training.episodes import Maker, Niah8k, Script
from niah.training.frames import FrameNeedles
from niah.training.full import FullReader
from niah.training.infini import InfiniReader, reader_config
from niah.training.llama import LlamaShape
from niah.training.log import Row
from niah.training.noise import Noise
from niah.training.recipe import Recipe, differences, find_recipe, load_recipe
from niah.training.train import Reader, Trainer

DEFAULT_RECIPES = {"full": "reader-full", "infini": "reader-infini", "convert": "convert-infini"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be trained, and where. Without `recipe` that of the folder counts, or the one that comes with niah.

    `init`: a training's folder or a checkpoint's, whose weights it begins with; for `infini` also a Llama-family checkpoint, converted.
    Without it `full` begins with structured weights, and `infini` with those of the bundled `full`.
    """

    reader: Literal["full", "infini"]
    folder: Path
    recipe: str | None = None
    init: str | None = None
    seed: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How it ended, and where the checkpoint is if it came to its recipe's end."""

    ended: Literal["recipe", "minutes", "interrupted"]
    step: int
    tokens: int
    best: float
    checkpoint: Path | None = None


def train(wish: Wish, note: Callable[[str], None], say: Callable[[Row, Recipe], None]) -> Trained:
    """Trains, or goes on with, what is wished; `note` hears what begins, `say` every row of the log.

    The first SIGINT or SIGTERM stops after the step in work, with the state saved. UsageError for what the user can mend.
    """
    if wish.threads:
        torch.set_num_threads(wish.threads)
    device = _device(wish.device)
    recipe, init = resolve(wish)
    with _alone(wish.folder):
        trainer = open_trainer(recipe, init, wish.folder, device)
        resumed = trainer.resume()
        if not resumed and init and recipe.reader != "convert":
            _begin_with(trainer, init)
        _write(wish.folder / "recipe.json", json.dumps({"recipe": recipe.model_dump(mode="json"), "init": init}, indent=1) + "\n")
        parameters = sum(parameter.numel() for parameter in trainer.reader.model.parameters())
        begun = f"resumed at step {trainer.step:,}, {trainer.tokens:,} of {recipe.total_tokens:,} tokens" if resumed else "begins"
        note(f"{wish.folder}: {recipe.reader} reader, {parameters:,} parameters, on {device}: {begun}")
        seconds = float("inf") if wish.minutes is None else wish.minutes * 60
        with _until_signal(note) as stop:
            done = trainer.run(seconds, lambda row: say(row, recipe), stop)
            interrupted = stop() and not done
        checkpoint = export(wish.folder, wish.folder / "checkpoint") if done else None
        ended = "recipe" if done else "interrupted" if interrupted else "minutes"
        return Trained(ended=ended, step=trainer.step, tokens=trainer.tokens, best=trainer.best, checkpoint=checkpoint)


def resolve(wish: Wish) -> tuple[Recipe, str | None]:
    """The recipe and the beginning that count. UsageError when the folder's training has others, and says which."""
    path = wish.folder / "recipe.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    init = str(Path(wish.init).resolve()) if wish.init and Path(wish.init).is_dir() else wish.init
    init = init or kept.get("init")
    if wish.recipe is None and kept:
        recipe = Recipe.model_validate(kept["recipe"])
    else:
        convert = wish.recipe is None and wish.reader == "infini" and init is not None and _convertible(init)
        recipe = load_recipe(find_recipe(wish.recipe or DEFAULT_RECIPES["convert" if convert else wish.reader]))
    if wish.seed is not None:
        recipe = recipe.model_copy(update={"seed": wish.seed})
    if recipe.reader == "infini":
        init = init or bundled("full")
    if recipe.reader != wish.reader and (wish.reader, recipe.reader) != ("infini", "convert"):
        raise UsageError(f"the recipe is for the reader {recipe.reader!r}, and {wish.reader!r} is to be trained")
    if recipe.reader == "convert" and init is None:
        raise UsageError("the recipe converts a checkpoint: name it with --init PATH_OR_ID")
    if kept and (wish.folder / "state.pt").is_file():
        asked = {"recipe": recipe.model_dump(mode="json"), "init": init}
        changed = [line.removeprefix("recipe.") for line in differences(kept, asked)]
        if changed:
            raise UsageError(f"{wish.folder} holds a training by another recipe ({'; '.join(changed[:4])}): give another --out")
    return recipe, init


def open_trainer(recipe: Recipe, init: str | None, folder: Path, device: str = "cpu") -> Trainer:
    """The trainer of a recipe at its beginning."""
    corpora = [_open(name) for name in recipe.corpora]
    real = [corpus for corpus in corpora if corpus.size is not None]
    noise, held_out = Noise(corpora), Noise(real or corpora, held_out=True)
    reader, script = _reader(recipe, init, noise)
    makers = Maker(FrameNeedles(), noise, script), Maker(FrameNeedles(blind=True), held_out, script)
    return Trainer(recipe, reader, makers, folder, device)


def export(folder: Path, out: Path) -> Path:
    """Writes the best weights of the training in `folder` as a checkpoint folder `out`."""
    from niah.training import export as exports

    if not (folder / "recipe.json").is_file():
        raise UsageError(f"{folder} holds no training of niah (no recipe.json)")
    kept = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    recipe = Recipe.model_validate(kept["recipe"])
    weights = _weights(folder)
    if recipe.reader == "full":
        exports.export_full(weights, _shape(recipe), out)
    elif recipe.reader == "infini":
        exports.export_infini(weights, reader_config(**recipe.model), out)
    else:
        model, script = converted(kept["init"], Conversion(**recipe.model))
        model.load_state_dict(weights)
        save_checkpoint(model, out)
        script.save(out)
    return out


def _reader(recipe: Recipe, init: str | None, noise: Noise) -> tuple[Reader, Script | None]:
    try:
        if recipe.reader == "full":
            return FullReader(_shape(recipe), noise, recipe.seed), None
        if recipe.reader == "infini":
            return InfiniReader(reader_config(**recipe.model), noise, recipe.seed), Niah8k(border=True)
        conversion = Conversion(**recipe.model)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the recipe's [model]: {str(error).partition('() ')[2] or error}") from None
    assert init is not None, "resolve() refuses a conversion of nothing"
    model, script = converted(init, conversion)
    return ConvertedReader(model, script.pad), script


def _shape(recipe: Recipe) -> LlamaShape:
    return replace(SHAPE, **recipe.model)


def _open(name: str) -> Corpus:
    try:
        return open_corpus(name)
    except UsageError as error:
        raise UsageError(f"{error}\nthe recipe names it: change the recipe's corpora to text that you have") from None


def _convertible(init: str) -> bool:
    """Whether a Llama-family checkpoint is meant, and no reader of ours."""
    path = Path(init) / "config.json"
    ours = path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("model_type") == "niah-infini"
    return not ours and not (Path(init) / "best.pt").is_file() and is_convertible(init)


def _begin_with(trainer: Trainer, init: str) -> None:
    weights = _weights(Path(init))
    # Hugging Face's names of a Llama's parts, which the exported `full` reader has.
    weights = {name.removeprefix("model."): tensor.float() for name, tensor in weights.items()}
    try:
        trainer.begin(weights)
    except RuntimeError as error:
        raise UsageError(f"--init {init}: its weights are of another model ({str(error).splitlines()[-1].strip()})") from None


def _weights(folder: Path) -> Mapping[str, Tensor]:
    """Those of a training's folder (the best so far), or of a checkpoint's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    best, stored = folder / "best.pt", folder / "model.safetensors"
    try:
        if best.is_file():
            return torch.load(best, map_location="cpu", weights_only=True)
        if stored.is_file():
            return load_file(stored)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise UsageError(f"the weights in {folder} cannot be read: {first_line(error)}") from None
    raise UsageError(f"{folder} holds neither best.pt (a training that was evaluated) nor model.safetensors (a checkpoint)")


def _device(asked: str) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here")
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UsageError(f"another training writes into {folder}: wait for it, or give another --out") from None


@contextmanager
def _until_signal(note: Callable[[str], None]) -> Generator[Callable[[], bool]]:
    """A question whether to stop, which the first SIGINT or SIGTERM answers; the second breaks off."""
    caught: list[int] = []

    def catch(number: int, _: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        note("stopping after this step; once more breaks off at once")

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
