"""CPU time to make a prompt whose token count is verified, beside one full encode of the same text.

    python benchmarks/prompts.py [--corpus builtin/wikipedia] [--lengths 4k,32k,128k,200k,1M] [--prompts 60]

Target: at most 3 ms a prompt at 128k tokens after set-up (RULER 245 ms, lm-eval 45 ms, NoLiMa 4.9 ms without verifying).
Set-up, once a reshuffle and process: reading the documents and tokenising each of them once. Every count is compared with a
full encode of the final text.
"""

import argparse
import statistics
import time

from niah.config import load_experiment, parse_length
from niah.run.plan import Plan, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="builtin/wikipedia")
    parser.add_argument("--lengths", default="4k,32k,128k,200k,1M")
    parser.add_argument("--prompts", type=int, default=60)
    options = parser.parse_args()
    print(f"{'length':>9} {'ms a prompt':>12} {'median ms':>10} {'full encode ms':>15} {'ratio':>7} {'set-up s':>9} {'count wrong':>12}")
    for length in map(parse_length, options.lengths.split(",")):
        depths = [step / 29 for step in range(30)]
        overrides = {"corpora": [options.corpus], "lengths": [length], "depths": depths, "reshuffles": 2, "cue": "user"}
        materials = gather(load_experiment("quickstart", overrides))
        trials = [trial for trial in Plan(load_experiment("quickstart", overrides), materials).trials(("user",)) if trial.reshuffle == 1]
        trials = (trials * (options.prompts // len(trials) + 1))[: options.prompts]
        started = time.process_time()
        materials.maker.make(trials[0])
        setup = time.process_time() - started
        times: list[float] = []
        encodes: list[float] = []
        wrong = 0
        for number, trial in enumerate(trials):
            started = time.process_time()
            prompt = materials.maker.make(trial)
            times.append(time.process_time() - started)
            if number % 10 == 0:
                contents = [message["content"] for message in prompt.messages()]
                started = time.process_time()
                counted = sum(materials.tokenizer.count(content) for content in contents)
                encodes.append(time.process_time() - started)
                wrong += counted != prompt.tokens
        mean, median, encode = (1000 * value for value in (statistics.mean(times), statistics.median(times), statistics.median(encodes)))
        print(f"{length:>9,} {mean:>12.3f} {median:>10.3f} {encode:>15.2f} {encode / median:>6.0f}x {setup:>9.2f} {wrong:>12}", flush=True)


if __name__ == "__main__":
    main()
