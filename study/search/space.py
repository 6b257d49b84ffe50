"""The search space: settings that are given are held fixed, the others are searched."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

import optuna
from pydantic import BaseModel, ValidationError

from model.annealing import ANNEALING_NAMES
from model.registry import DECODERS, ENCODERS, POOLINGS_OF_ALL, poolings_with
from study.config.methods import METHODS, PLAIN, method_settings
from study.config.settings import Params, Settings, Table, Value, check_name, flatten, nest, validate
from study.errors import StudyError
from study.search.ranges import Range

SEARCHED: dict[str, Range] = {
    "model.pooling": Range(values=POOLINGS_OF_ALL),
    "model.latent_size": Range(values=(8, 16, 32, 64)),
    "objective.kl_weight": Range(low=0.1, high=1.0),
    "objective.annealing": Range(values=ANNEALING_NAMES),
    "objective.annealing_fraction": Range(low=0.1, high=0.6),
    "objective.num_cycles": Range(low=2, high=6),
}
"""What is searched unless it is given."""

OPTIONAL: dict[str, Range] = {
    "training.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    "objective.free_bits": Range(values=("none", "total", "per-dimension", "batch-mean")),
    "objective.free_bits_nats": Range(low=1.0, high=8.0),
    "model.init": Range(values=("default", "uniform")),
    "model.word_dropout": Range(low=0.0, high=0.6),
    "model.hidden_size": Range(values=(64, 128, 256, 512)),
    "model.encoder": Range(values=tuple(ENCODERS)),
    "model.decoder": Range(values=tuple(DECODERS)),
    "model.num_encoder_layers": Range(low=1, high=4),
    "model.num_decoder_layers": Range(low=1, high=4),
    "model.num_heads": Range(values=(1, 2, 4, 8)),
    "model.positions": Range(values=("sinusoidal", "learned")),
    "model.inner_dropout": Range(low=0.0, high=0.5),
    "training.warmup_fraction": Range(low=0.0, high=0.2),
    "objective.target_kl_nats": Range(low=1.0, high=8.0),
}
"""What `--search NAME` adds, with these ranges unless a `[search]` table gives others."""

ANNEALED = frozenset(ANNEALING_NAMES) - {"constant"}
WITH_HEADS = {
    "model.encoder": frozenset(name for name, layers in ENCODERS.items() if layers.has_heads),
    "model.decoder": frozenset(name for name, layers in DECODERS.items() if layers.has_heads),
}
CONDITIONS: dict[str, dict[str, frozenset[str]]] = {
    "model.pooling_temperature": {"model.pooling": poolings_with("temperature")},
    "model.bidirectional": {"model.encoder": frozenset(n for n, layers in ENCODERS.items() if not layers.sees_all)},
    "model.num_heads": WITH_HEADS,
    "model.positions": WITH_HEADS,
    "objective.annealing_fraction": {"objective.annealing": ANNEALED},
    "objective.initial_kl_weight": {"objective.annealing": ANNEALED},
    "objective.num_cycles": {"objective.annealing": frozenset({"cyclical", "cyclical-cosine"})},
    "objective.cycle_rise": {"objective.annealing": frozenset({"cyclical", "cyclical-cosine"})},
    "objective.free_bits_nats": {"objective.free_bits": frozenset({"total", "per-dimension", "batch-mean"})},
}
"""Settings that mean something only while another one, or one of several others, has one of these values."""

OF_ENCODER = (
    "model.pooling",
    "model.pooling_temperature",
    "model.latent_size",
    "model.bidirectional",
    "model.encoder",
    "model.num_encoder_layers",
)
"""Settings that mean nothing to a language model."""

DECIDED = frozenset(name for method in METHODS for name in method_settings(method))
SWITCHES = frozenset(PLAIN) - {"objective.kl_weight", "objective.initial_kl_weight"}
"""What tells methods apart: given beside several methods, it would make one of them out of another."""


class StoredSpace(BaseModel):
    """What `SearchSpace.to_json` makes."""

    fixed: Settings
    ranges: dict[str, Range]
    kept: frozenset[str] = frozenset()
    only_planned: frozenset[str] = frozenset()


class SearchSpace:
    """The settings held fixed, and a range for each that is searched."""

    def __init__(
        self,
        fixed: Settings,
        ranges: dict[str, Range],
        kept: frozenset[str] = frozenset(),
        only_planned: frozenset[str] = frozenset(),
    ) -> None:
        """Hold `fixed` settings and search `ranges`; those `kept` stay as they are whatever a method would have.

        The ranges `only_planned` are no part of the search: a trial has a value of them only if it was planned with it.
        """
        self.fixed, self.kept, self.only_planned = fixed, kept, only_planned
        # A condition's setting is asked for before those that depend on it.
        self.ranges = dict(sorted(ranges.items(), key=lambda item: (item[0] != "method", item[0] in CONDITIONS)))
        for name, values in self.ranges.items():
            for value in values.ends():
                self.settings({name: value})

    def applies(self, name: str, values: Mapping[str, Value]) -> bool:
        """Say whether a searched setting means anything, given the values chosen so far."""
        if values.get("method", self.fixed.method) == "language-model" and (
            name in OF_ENCODER or name.startswith("objective.")
        ):
            return False
        if name not in CONDITIONS:
            return True
        return any(
            values.get(other, getattr(getattr(self.fixed, table), leaf)) in meaningful
            for other, meaningful in CONDITIONS[name].items()
            for table, leaf in [other.split(".")]
        )

    @staticmethod
    def condition(name: str) -> str:
        """Return in words what else must be for a setting to mean anything; nothing if it always does."""
        return " or ".join(
            f"{other} is {' or '.join(sorted(meaningful))}" for other, meaningful in CONDITIONS.get(name, {}).items()
        )

    def suggest(
        self, trial: optuna.Trial, planned: Collection[str] = (), outside: Mapping[str, Value] | None = None
    ) -> Params:
        """Ask an Optuna trial, which was `planned` with values of these settings, for each one that applies.

        Values `outside` the space, of whatever settings, are as they are, and Optuna is not asked for them.
        """
        values: Params = dict(outside or {})
        for name, allowed in self.ranges.items():
            if name in values or (name in self.only_planned and name not in planned):
                continue
            if self.applies(name, values):
                values[name] = allowed.suggest(trial, name)
        return values

    def values_in(self, flat: Mapping[str, object], planned: Params | None = None) -> Params:
        """Return what all the settings of a trial, by dotted name, say of those that are searched here and apply.

        Values that it was `planned` with are as they are.
        """
        values = dict(planned or {})
        for name in self.searched:
            value = flat.get(name)
            is_open = name not in values and self.applies(name, values)
            if is_open and isinstance(value, bool | int | float | str):
                values[name] = value
        return values

    def divide(self, values: Params) -> tuple[Params, Params]:
        """Return which of some values are within the space, and which are not."""
        outside = {n: v for n, v in values.items() if n not in self.ranges or not self.ranges[n].holds(v)}
        return {name: value for name, value in values.items() if name not in outside}, outside

    def settings(self, values: Mapping[str, Value]) -> Settings:
        """Return the settings of a trial with these searched values."""
        # A language model takes nothing over that is about a latent variable.
        kept = frozenset() if values.get("method") == "language-model" else self.kept
        return self.fixed.with_values(values, kept)

    @property
    def searched(self) -> dict[str, Range]:
        """The ranges that the sampler chooses from."""
        return {name: allowed for name, allowed in self.ranges.items() if name not in self.only_planned}

    def variants(self) -> list[Settings]:
        """Return the settings of each method that is searched, or the fixed ones."""
        methods = self.searched["method"].ends() if "method" in self.searched else ()
        return [self.settings({"method": method}) for method in methods] or [self.fixed]

    def most_epochs(self) -> int:
        """Return the largest number of epochs, pretraining included, that any setting here trains for."""
        return max(
            self._most("training.pretraining_epochs", each.training.pretraining_epochs)
            + self._most("training.epochs", each.training.epochs)
            for each in self.variants()
        )

    def warm_epoch(self) -> int:
        """Return the epoch from which trials can be compared: the KL weight of each has been at its final value.

        It is not before a quarter of training, nor in pretraining.
        """
        return max(
            self._most("training.pretraining_epochs", each.training.pretraining_epochs)
            + max(1, math.ceil(max(self._warmup(each), 0.25) * self._most("training.epochs", each.training.epochs)))
            for each in self.variants()
        )

    def largest(self, name: str) -> int:
        """Return the largest value of a whole-numbered setting: of its range, or the fixed one; 0 if unset."""
        table, leaf = name.split(".")
        return self._most(name, getattr(getattr(self.fixed, table), leaf) or 0)

    def _most(self, name: str, fixed: int) -> int:
        return int(max(self.ranges[name].ends())) if name in self.ranges else fixed

    def _warmup(self, settings: Settings) -> float:
        objective = settings.objective
        if "objective.annealing" not in self.ranges and "objective.annealing_fraction" not in self.ranges:
            return objective.first_full_fraction
        kinds = self.ranges.get("objective.annealing", Range(values=(objective.annealing,))).ends()
        if set(kinds) == {"constant"}:
            return 0.0
        fraction = self.ranges.get("objective.annealing_fraction", Range(values=(objective.annealing_fraction,)))
        return float(max(fraction.ends()))

    def grid(self) -> list[Params]:
        """Return every point of the space's grid, without settings that do not apply, each once."""
        points: list[Params] = [{}]
        for name, allowed in self.searched.items():
            points = [
                each
                for point in points
                for each in ([{**point, name: v} for v in allowed.grid()] if self.applies(name, point) else [point])
            ]
        return points

    def to_json(self) -> dict[str, object]:
        """Return what `from_json` rebuilds the space from."""
        ranges = {name: allowed.model_dump(exclude_defaults=True) for name, allowed in self.ranges.items()}
        stored: dict[str, object] = {"fixed": self.fixed.model_dump(), "ranges": ranges, "kept": sorted(self.kept)}
        return stored | ({"only_planned": sorted(self.only_planned)} if self.only_planned else {})

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> SearchSpace:
        """Rebuild a space that `to_json` stored; raise ValueError if it is none."""
        found = StoredSpace.model_validate(stored)
        return cls(found.fixed, found.ranges, found.kept, found.only_planned)


def build_space(layers: list[Table], also: tuple[str, ...] = (), by_hand: frozenset[str] = frozenset()) -> SearchSpace:
    """Return the space that tables of settings, later ones winning, leave of the default one.

    A setting that a table gives is held fixed; one that its `[search]` table names is searched there
    (`false` leaves it at its default). `also` names optional settings to search. Where methods are searched, what
    is given `by_hand` holds for all of them, and the rest is each method's own. Raises StudyError.
    """
    ranges: dict[str, Range] = dict(SEARCHED)
    given: dict[str, object] = {}
    for layer in layers:
        flat = flatten({name: table for name, table in layer.items() if name != "search"})
        if flat.get("method") in METHODS:
            flat = method_settings(str(flat["method"])) | flat
        given |= flat
        ranges = {name: allowed for name, allowed in ranges.items() if name not in flat}
        if not isinstance(layer.get("search", {}), dict):
            raise StudyError(f"[search] must be a table of settings and ranges, got {layer['search']!r}")
        if layer.get("search", {}).get("method"):
            # What a method decides is searched by searching methods.
            ranges = {name: allowed for name, allowed in ranges.items() if name not in DECIDED}
        for name, stored in layer.get("search", {}).items():
            check_name(name)
            ranges.pop(name, None)
            if stored is not False:
                ranges[name] = parse_range(name, stored)
                given.pop(name, None)
    for name in also:
        check_name(name)
        known = OPTIONAL | SEARCHED
        if name not in known:
            raise StudyError(
                f"{name} has no usual range; give one in a [search] table, or search one of {', '.join(known)}"
            )
        ranges.setdefault(name, known[name])
        given.pop(name, None)
    kept = by_hand & DECIDED & given.keys() if "method" in ranges else frozenset()
    if kept & SWITCHES:
        raise StudyError(
            f"{min(kept & SWITCHES)} is what tells methods apart; leave it to them, or give one method and no others"
        )
    return SearchSpace(validate(nest(given)), ranges, frozenset(kept))


def parse_range(name: str, stored: object) -> Range:
    """Check one entry of a `[search]` table; raise StudyError."""
    try:
        found = Range.model_validate(stored if isinstance(stored, dict) else {"values": stored})
        if isinstance(flatten(Settings().model_dump())[name], float) and found.low is not None:
            # Whole ends of a setting that is a fraction do not make it whole.
            found = found.model_copy(update={"low": float(found.low), "high": float(found.high or 0.0)})
    except ValidationError as error:
        first = error.errors()[0]
        raise StudyError(
            f"search range of {name}: {first['msg'].removeprefix('Value error, ')}, got {stored!r};"
            " expected { values = [...] } or { low = ..., high = ..., log = true }"
        ) from None
    return found


SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "cma-es", "nsga2"]
SchedulerName = Literal["asha", "median", "none"]
SCHEDULER_NAMES: tuple[str, ...] = get_args(SchedulerName)
