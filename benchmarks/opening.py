"""Opening a corpus: the first time on a node, which reads everything, and again.

    python benchmarks/opening.py [MEGABYTES]

Prints seconds of both, the ratio, and megabytes a second of the first; the corpus is made in a temporary folder.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data.corpus import VOCABULARY, Corpus, fingerprint, write_shard
from data.manifest import Manifest, write_manifest
from data.vocabulary import Vocabulary

SHARD_TOKENS = 16 * 2**20
TOKENS_A_SEQUENCE = 32


def make(folder: Path, megabytes: int) -> None:
    """Write a corpus of random tokens of so many megabytes."""
    vocabulary = Vocabulary.of(f"w{number}" for number in range(20_000))
    vocabulary.write(folder / VOCABULARY)
    draw, names = np.random.default_rng(0), []
    for number in range(max(1, megabytes * 2**20 // 2 // SHARD_TOKENS)):
        ids = draw.integers(4, len(vocabulary), SHARD_TOKENS, dtype=np.uint16)
        lengths = np.full(SHARD_TOKENS // TOKENS_A_SEQUENCE, TOKENS_A_SEQUENCE)
        names.append(f"train-{number:05d}.arrow")
        write_shard(folder / names[-1], ids, lengths, 5 * lengths)
    counts = {"num_sequences": 1, "num_tokens": 1, "num_bytes": 1}
    files = [VOCABULARY, *names]
    cleaning = {"tokenizer": "whitespace", "pattern": "", "lowercase": False}
    write_manifest(
        folder,
        Manifest(
            source="files",
            settings=cleaning,
            fingerprint=fingerprint(folder, files),
            vocabulary_size=len(vocabulary),
            splits={"train": counts | {"shards": names}},
            files={name: (folder / name).stat().st_size for name in files},
        ),
    )


def seconds_to_open(folder: Path) -> float:
    """Return the wall time of opening a corpus and its training split."""
    started = time.perf_counter()
    Corpus.open(folder).split("train")
    return time.perf_counter() - started


def main() -> None:
    """Make a corpus, open it twice, print what it took."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        folder = Path(scratch) / "corpus"
        folder.mkdir()
        make(folder, megabytes)
        first, again = seconds_to_open(folder), min(seconds_to_open(folder) for _ in range(5))
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(
        json.dumps(
            {
                "megabytes": round(size),
                "first_seconds": round(first, 3),
                "again_seconds": round(again, 4),
                "ratio": round(first / again),
                "megabytes_a_second": round(size / first),
            }
        )
    )


if __name__ == "__main__":
    main()
