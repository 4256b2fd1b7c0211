"""The bundled reader over real text: as one model, and on four instances none of which could hold a prompt alone. And who held what.

    python benchmarks/distkv_sweep.py TEXT [--lengths 1k,2k] [--depths 0.1,0.9] [--memory 12MB] [--bfloat16] [--picture map.png]

Sweeps by hf/ and by distkv/ over the same trials, compares the answers, and draws the memory of each instance after each chunk of reading
and every eighth token of writing: a column a moment, a row a block. Its weights are read as float32: with --bfloat16, as they come, the two
differ by rounding, and so may an answer where two tokens are nearly as likely.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy
import transformers
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from niah.cli import app
from niah.engines.checkpoint import bundled
from niah.engines.distkv.fleet import Fleet
from niah.report.heatmap import drawn_alike
from niah.report.lettering import INK
from niah.run.store import read

COLOURS = ("#f2f2f2", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")
INSTANCES, EVERY = 4, 8


class Moments:
    """What lies in each slot of each instance, moment by moment: 0, or the number of the text that brought it."""

    def __init__(self):
        self.columns, self.reading, self.texts, self._steps = [], [], {}, 0

    def take(self, fleet, tokens):
        self._steps += 1
        if tokens == 1 and self._steps % EVERY:
            return
        home = fleet.managers["0"]
        slots = {name: numpy.zeros(manager.counts.total, int) for name, manager in fleet.managers.items()}
        for request in home.requests:
            for block in home.blocks(request):
                number = self.texts.setdefault(request, len(self.texts) + 1)
                if not slots[block.holder][block.slot]:  # a block that several texts begin with is the first one's
                    slots[block.holder][block.slot] = number
        self.columns.append(slots)
        self.reading.append(tokens > 1)


def widened(folder):
    """The reader with the same weights in float32."""
    shutil.copytree(bundled("full"), folder)
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
    return folder


def sweep(model, folder, options, extra=()):
    words = [
        "sweep", "--model", model, "--corpus", str(options.text.resolve()), "--lengths", options.lengths, "--depths", options.depths,
        "--reshuffles", "1", "--out", str(folder), *extra,
    ]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return {record.trial.key: record for record in read(folder)}


def draw(moments, path, title):
    with drawn_alike():
        picture = Figure(figsize=(9.0, 5.2), layout="constrained")
        picture.suptitle(title, fontsize=9.5, fontweight="bold", color=INK)
        rows = picture.subplots(INSTANCES, 1, sharex=True)
        colours = ListedColormap([COLOURS[0], *(COLOURS[1 + n % (len(COLOURS) - 1)] for n in range(len(moments.texts)))])
        for number, axes in enumerate(rows):
            held = numpy.stack([column[str(number)] for column in moments.columns], 1)
            axes.imshow(held, aspect="auto", cmap=colours, vmin=0, vmax=len(moments.texts), interpolation="nearest")
            axes.set_ylabel(f"instance {number}" + (" (home)" if not number else "") + "\nblocks", fontsize=8, color=INK)
            axes.tick_params(labelsize=7, length=2, colors=INK)
            axes.spines[["top", "right"]].set_visible(False)
        rows[-1].set_xlabel("moments of the sweep; one colour a text, grey: free", fontsize=8, color=INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(path, format="png", dpi=100, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--lengths", default="1k,2k")
    parser.add_argument("--depths", default="0.1,0.9")
    parser.add_argument("--memory", default="12MB")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    moments, work = Moments(), Fleet.work

    def watched(fleet, tokens):
        work(fleet, tokens)
        moments.take(fleet, tokens)

    with tempfile.TemporaryDirectory() as place:
        name = "bundled" if options.bfloat16 else widened(Path(place) / "reader")
        plain = sweep(f"hf/{name}", Path(place) / "hf", options)
        Fleet.work = watched
        found = sweep(f"distkv/{name}", Path(place) / "distkv", options, ("--instances", str(INSTANCES), "--kv-memory", options.memory))
    print(f"{'length':>7} {'depth':>6} {'local':>6} {'remote':>7} {'moved MB':>9} {'recall':>7}  answers alike")
    alike = 0
    for key, record in sorted(found.items(), key=lambda each: (each[1].trial.length, each[1].trial.depths)):
        other, measured = plain[key].reply, record.reply.measured
        same = (record.reply.text, record.reply.usage.output) == (other.text, other.usage.output)
        alike += same
        print(
            f"{record.trial.length:>7,} {record.trial.depths[0]:>6.2f} {measured['local_blocks']:>6.0f} {measured['remote_blocks']:>7.0f} "
            f"{measured['moved_bytes'] / 1e6:>9.1f} {record.scores[0].value:>7.2f}  {'yes' if same else 'NO'}"
        )
        assert measured["remote_blocks"] > 0, "one instance could hold this prompt"
    print(f"{alike} of {len(found)} answers are those of hf/")
    if options.picture:
        title = f"who holds what: {len(found)} prompts of {options.lengths} tokens, {INSTANCES} instances of {options.memory}"
        draw(moments, options.picture, title)
        print(options.picture, options.picture.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
