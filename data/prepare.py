"""The pipeline from text to a prepared corpus, in three passes of bounded memory.

1. Clean and tokenise the text in chunks; spool the sequences, tokens as numbers, to buckets by a hash of their tokens.
2. Bucket by bucket: sort by that hash, drop duplicates, choose each sequence's split, count tokens.
3. Bucket by bucket: encode with the vocabulary, one shard a split.

A sequence's place and split depend on nothing but itself (and its group), and buckets on the text's
size alone, so that the same text in any order and any files gives the same corpus.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from data.corpus import VOCABULARY, Corpus, fingerprint
from data.encoding import Encoding, encode_buckets
from data.errors import CorpusError
from data.learnable import check_learnable
from data.manifest import MANIFEST, Manifest, TextBytes, write_manifest
from data.placing import check_nothing_foreign, replace_folder, writing_aside
from data.settings import PrepareSettings
from data.sources.source import Source
from data.splitting import check_splits
from data.spooling import TokenNumbers, settle_buckets, spool_sequences
from data.tokens import subwords
from data.tokens.cleaning import tokenizer_of
from data.vocabulary import SPECIAL_TOKENS, Vocabulary


def prepare(
    source: Source,
    settings: PrepareSettings,
    folder: Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Corpus, bool]:
    """Prepare a corpus into a folder; return it, and whether it was newly made.

    A folder that already holds what the same input and settings give is returned as it is. It is
    written aside and renamed, so that an interrupted run leaves nothing behind. Raises CorpusError
    if the folder holds something else (unless `overwrite`), no sequence is left for a split, or nothing can be learnt
    from what it came to (unless `force`).
    """
    identity = source_identity(source, settings)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise CorpusError(f"{folder} holds files that are no corpus, which are left alone; choose another --out")
    if (folder / MANIFEST).is_file() and not overwrite:
        existing = Corpus.open(folder)
        if existing.manifest.identity == identity:
            return existing, False
        raise CorpusError(
            f"{folder} already holds a corpus made from other text or settings;"
            " choose another --out or pass --overwrite"
        )
    check_nothing_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(folder) as aside:
        manifest = write_corpus(source, settings, aside, progress, force=force)
        write_manifest(aside, manifest.model_copy(update={"identity": identity}))
        replace_folder(aside, folder)
    return Corpus.open(folder), True


def source_identity(source: Source, settings: PrepareSettings) -> str:
    """Return a digest of the input's content and the settings."""
    digest = hashlib.sha256()
    # What is as it always was leaves the digest of a corpus as it was.
    newer = {name: PrepareSettings.model_fields[name].default for name in ("normalization", "max_word_bytes")}
    chosen = {name: value for name, value in settings.model_dump().items() if newer.get(name, ...) != value}
    parts = {
        "source": source.name,
        "settings": chosen,
        "identity": source.identity,
        "splits": {name: len(files) for name, files in source.splits.items()},
    }
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for path in source.files:
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def choose_vocabulary(source: Source, settings: PrepareSettings, token_counts: pl.DataFrame) -> Vocabulary:
    """Return the vocabulary that came with the source, or the most frequent tokens where fewer are asked for.

    Raises CorpusError if the source's likelihood is known for the whole vocabulary only.
    """
    listed, size = source.vocabulary, settings.vocabulary_size
    if listed is None:
        return Vocabulary.from_counts(token_counts, size, settings.min_count)
    if (size is None or size >= len(listed)) and settings.min_count == 1:
        return Vocabulary.of(listed)
    if source.exact:
        raise CorpusError(f"{source.name} keeps its {len(listed)} words: its exact likelihood is that of all of them")
    return Vocabulary.from_counts(token_counts, size, settings.min_count)


def write_corpus(
    source: Source, settings: PrepareSettings, folder: Path, progress: Callable[[str], None], *, force: bool = False
) -> Manifest:
    """Run the three passes into an empty folder; return the manifest."""
    spool = folder / "spool"
    spool.mkdir()
    numbers = TokenNumbers()
    spooled = spool_sequences(source, settings, numbers, spool, progress)
    dropped, buckets = spooled.dropped, spooled.buckets
    counts = settle_buckets(buckets, settings, dropped, progress)
    met = np.flatnonzero(counts.sum(axis=0))
    tokens = numbers.tokens(met)
    in_training = pl.DataFrame({"token": tokens, "count": counts[0, met]}).filter(pl.col("count") > 0)
    if tokenizer_of(settings).is_trained:
        progress(f"merging byte pairs of {len(in_training):,} pieces")
        trained = subwords.train(in_training, settings.vocabulary_size)
        vocabulary = Vocabulary((*SPECIAL_TOKENS, *trained.tokens), trained.merges)
        encoding = Encoding.of_lists(counts.shape[1], met, map(vocabulary.encode, trained.encode(tokens)), vocabulary)
    else:
        vocabulary = choose_vocabulary(source, settings, in_training)
        encoding = Encoding.of_single(counts.shape[1], met, vocabulary.encode_column(tokens).to_numpy(), vocabulary)
    vocabulary.write(folder / VOCABULARY)
    labels = sorted(spooled.labels)
    splits, overlap = encode_buckets(buckets, encoding, labels, settings, folder, dropped, progress)
    shutil.rmtree(spool)
    check_splits(splits, dropped.sequences)
    kept = sum(split.num_bytes for split in splits.values())
    text_bytes = TextBytes(read=spooled.num_bytes, kept=kept, dropped=dict(dropped.num_bytes.most_common()))
    text_bytes.check()
    files = [VOCABULARY, *(name for split in splits.values() for name in split.shards)]
    manifest = Manifest(
        source=source.name,
        fingerprint=fingerprint(folder, files),
        settings=settings.model_dump(),
        origin=dict(source.origin),
        vocabulary_size=len(vocabulary),
        splits=splits,
        dropped=dict(dropped.sequences.most_common()),
        text_bytes=text_bytes,
        labels=labels,
        also_in_train=overlap,
        files={name: (folder / name).stat().st_size for name in files},
    )
    if not force:
        check_learnable(manifest, spooled.examples)
    return manifest
