"""Tokens that local engines compute in a sweep, of those that they would compute if each prompt were read anew.

    python benchmarks/prefix_reuse.py [--lengths 1k,2k,4k,8k,16k] [--depths 0,0.25,0.5,0.75,1] [infini/bundled hf/bundled ...]

One reshuffle of the built-in encyclopedia is swept by `niah sweep` itself; the figures are those of its records. Without models, two of
the bundled readers' shapes with random weights are made: what is reused does not depend on them. Target: at most 60%, better 55%.
hf/ keeps all keys and values and reads of each prompt what stands behind its needle: no engine could compute less.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def made(folder: Path) -> list[str]:
    """Random weights of the bundled readers' shapes, as names of models."""
    from niah.engines.infini.model import InfiniModel
    from niah.training.export import export_full, export_infini
    from niah.training.infini import reader_config
    from niah.training.llama import Llama, LlamaShape

    export_infini(InfiniModel(reader_config()).state_dict(), reader_config(), folder / "infini")
    export_full(Llama(LlamaShape()).state_dict(), LlamaShape(), folder / "full")
    return [f"infini/{folder / 'infini'}", f"hf/{folder / 'full'}"]


def swept(model: str, lengths: str, depths: str, folder: Path) -> list[dict]:
    config = folder / "reuse.toml"
    config.write_text(
        f'models = ["{model}"]\ncorpora = ["builtin/wikipedia"]\nneedles = "default"\nlengths = {json.dumps(lengths.split(","))}\n'
        f'depths = [{depths}]\nreshuffles = 1\ncue = "prefill"\n\n[sampling]\nmax_output_tokens = 1\n'
    )
    out = folder / "run"
    command = [sys.executable, "-m", "niah", "sweep", str(config), "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"CI": "1"})
    if done.returncode not in (0, 3):  # 3: every answer is cut, for its cap is one token
        sys.exit(done.stderr)
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--lengths", default="1k,2k,4k,8k,16k")
    parser.add_argument("--depths", default="0,0.25,0.5,0.75,1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or made(Path(folder))
        print(f"{'model':<30} {'prompts':>7} {'tokens':>9} {'computed':>9} {'share':>7}")
        for number, model in enumerate(models):
            place = Path(folder) / str(number)
            place.mkdir()
            replies = [each["reply"]["usage"] for each in swept(model, options.lengths, options.depths, place)]
            tokens = sum(each["input"] for each in replies)
            computed = tokens - sum(each["cached"] for each in replies)
            name = f"{model.partition('/')[0]}/{Path(model).name}"
            print(f"{name:<30} {len(replies):>7} {tokens:>9,} {computed:>9,} {computed / tokens:>7.1%}", flush=True)


if __name__ == "__main__":
    main()
