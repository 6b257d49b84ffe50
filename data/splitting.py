"""Which split a sequence belongs to, and whether splits can be used."""

from __future__ import annotations

from collections import Counter

import polars as pl

from data.errors import CorpusError
from data.manifest import SplitManifest
from data.settings import PrepareSettings


def choose_split(settings: PrepareSettings) -> pl.Expr:
    """Return the expression of a row's split: its own if it came split, else by hash of its key or group."""
    key = pl.col("group_key" if settings.split_by_group else "key")
    # The low bits: the high ones are the order.
    place = (key % 2**32).cast(pl.Float64) / 2.0**32
    chosen = (
        pl.when(place < settings.test_fraction)
        .then(pl.lit("test"))
        .when(place < settings.test_fraction + settings.valid_fraction)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    return pl.when(pl.col("split") == "all").then(chosen).otherwise(pl.col("split"))


def check_groups(groups: pl.DataFrame) -> None:
    """Raise CorpusError if a group is in two splits: text that came split has not been split by it."""
    shared = groups.group_by("group_key").len().filter(pl.col("len") > 1).height
    if shared:
        raise CorpusError(
            f"{shared} groups are in more than one of the splits that were given; leave --group-column out to accept"
            " that, or give all files as one text, to be split anew"
        )


def check_splits(splits: dict[str, SplitManifest], dropped: Counter[str]) -> None:
    """Raise CorpusError if a split has no sequence."""
    for name, split in splits.items():
        if split.num_sequences == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "none"
            raise CorpusError(
                f"no sequence is left for the {name} split (dropped: {reasons});"
                " give more text, wider length limits or larger fractions"
            )
