"""How varied the built-in corpora are, beside real text: distinct 4-grams and 8-grams, vocabulary, repeated paragraphs.

    python benchmarks/variety.py [--words 200000] [--tokens 2000000] [--real FOLDER] [DOMAIN ...]

Targets (200,000 words a domain): 4-grams at least 0.55, 8-grams at least 0.85, vocabulary at least 5,000; no repeated
paragraph in 2 million tokens. `--real` names a folder with <domain>.parquet files to print beside.
"""

import argparse
import re
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from niah import resources
from niah.task.grammar import Grammar

DOMAINS = ("wikipedia", "legal", "financial", "medical")
WORD = re.compile(r"\w+(?:['’-]\w+)*")


def builtin(domain: str) -> Iterator[str]:
    path = resources.find("haystacks", f"grammars/{domain}.toml")
    assert path, f"no grammar {domain}"
    grammar = Grammar.load(domain, tomllib.loads(path.read_text(encoding="utf-8")))
    number = 0
    while True:
        yield grammar.document(number)[1]
        number += 1


def real(folder: Path, domain: str) -> Iterator[str]:
    import pandas

    yield from pandas.read_parquet(folder / f"{domain}.parquet", columns=["text"])["text"]


def measure(texts: Iterable[str], words_wanted: int) -> str:
    words: list[str] = []
    for text in texts:
        words.extend(word.lower() for word in WORD.findall(text))
        if len(words) >= words_wanted:
            break
    words = words[:words_wanted]
    shares = [len({tuple(words[i : i + n]) for i in range(len(words) - n + 1)}) / (len(words) - n + 1) for n in (4, 8)]
    return f"words {len(words):>8,}  4-grams {shares[0]:.3f}  8-grams {shares[1]:.3f}  vocabulary {len(set(words)):>7,}"


def repeats(texts: Iterable[str], characters_wanted: int) -> str:
    """Headings (blocks without a full stop) may come again; paragraphs may not."""
    seen: dict[str, int] = {}
    characters = documents = 0
    started = time.process_time()
    for text in texts:
        characters += len(text)
        documents += 1
        for block in text.split("\n\n"):
            if "." in block:
                seen[block] = seen.get(block, 0) + 1
        if characters >= characters_wanted:
            break
    seconds = time.process_time() - started
    repeated = [block for block, count in seen.items() if count > 1]
    line = f"{characters / 1e6:.1f}M characters in {documents} documents ({characters / 1e6 / seconds:.2f}M characters/s)"
    return f"{line}, repeated paragraphs {len(repeated)}" + "".join(f"\n    {block[:150]}" for block in repeated[:3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="*", default=DOMAINS)
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--real", type=Path)
    options = parser.parse_args()
    for domain in options.domains:
        print(f"{domain:10} built in  {measure(builtin(domain), options.words)}")
        if options.real:
            print(f"{domain:10} real      {measure(real(options.real, domain), options.words)}")
        print(f"{domain:10} {repeats(builtin(domain), options.tokens * 5)}", flush=True)


if __name__ == "__main__":
    main()
