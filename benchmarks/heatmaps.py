"""The pictures of docs/reading-a-heatmap.md, from real runs. `python benchmarks/heatmaps.py [--run FOLDER]`

Near misses: the published run in results/example. The bundled reader: a sweep of 160 prompts, which takes some minutes; with --run that of
an earlier call. It is the same experiment each time, so the same weights give the same recalls; seconds differ from machine to machine.
"""

import argparse
import subprocess
import sys
from itertools import chain
from pathlib import Path

from niah.report import heatmap, pictures
from niah.report.lines import lines_figure
from niah.report.stats import Results, aggregate
from niah.run.store import read

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MODEL = "hf/bundled"
MOST_BYTES, SMALL_DPI = 150_000, 90
GRID = ("--lengths", "500,1k,2k,4k", "--depths", "0,0.25,0.5,0.75,1", "--reshuffles", "8")
CORPORA = ("builtin/wikipedia", "builtin/legal", "builtin/financial", "builtin/medical")


def sweep(folder: Path) -> None:
    corpora = chain.from_iterable(("--corpus", corpus) for corpus in CORPORA)
    subprocess.run([sys.executable, "-m", "niah", "sweep", "--model", MODEL, *GRID, *corpora, "--out", str(folder)], check=True)


def draw(results: Results, name: str) -> list[Path]:
    """The heatmap of a run of one model."""
    ((series, cells),) = results.cells.items()
    panel = heatmap.Panel(title=series.model, cells=cells, notes=[pictures.note(results.summaries[series])])
    return heatmap.draw([panel], PICTURES / name, kinds=["png"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    folder = parser.parse_args().run
    if folder is None:
        folder = ROOT / "results" / "reading-a-heatmap"
        sweep(folder)
    PICTURES.mkdir(exist_ok=True)
    reader = aggregate(record for record in read(folder) if record.model == MODEL)
    curves = PICTURES / "curves-bundled-reader.png"
    with heatmap.drawn_alike():
        lines_figure(reader).savefig(curves, dpi=SMALL_DPI, metadata={"Software": None})
    made = [
        *draw(aggregate(read(ROOT / "results" / "example")), "heatmap-near-misses"),
        *draw(reader, "heatmap-bundled-reader"),
        curves,
    ]
    for path in made:
        size = path.stat().st_size
        print(f"{path}: {size:,} bytes")
        if size > MOST_BYTES:
            raise SystemExit(f"{path} is larger than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
