"""Wall time of `niah --help`, beside that of Python alone.

    python benchmarks/startup.py [--runs 15]

Target: under 200 ms as the median. What is measured is the installed command next to this Python, as a user starts it. On a busy
machine look at the CPU time.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

TARGET_MS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    niah = Path(sys.executable).with_name("niah")
    help_ms = milliseconds([str(niah), "--help"], runs)
    python_ms = milliseconds([sys.executable, "-c", "pass"], runs)
    for what, (values, cpu) in (("niah --help", help_ms), ("python -c pass", python_ms)):
        spread = f"fastest {min(values):>4.0f} ms   slowest {max(values):>4.0f} ms"
        print(f"{what:<16} median {statistics.median(values):>4.0f} ms   {spread}   CPU {cpu:>4.0f} ms")
    median = statistics.median(help_ms[0])
    print(f"{'under' if median < TARGET_MS else 'NOT under'} {TARGET_MS} ms (median of {runs} runs: {median:.0f} ms)")


def milliseconds(command: list[str], runs: int) -> tuple[list[float], float]:
    """Wall times of `runs` runs and their mean CPU time, after one run that fills the file caches and writes the bytecode."""
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    times: list[float] = []
    before = _children_seconds()
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(1000 * (time.perf_counter() - started))
    return times, 1000 * (_children_seconds() - before) / runs


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
