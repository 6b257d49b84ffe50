"""The search space: settings that are given are held fixed, the others are searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import optuna
from pydantic import BaseModel, ValidationError

from study.config.methods import METHODS, method_settings
from study.config.settings import (
    OWN,
    Params,
    Settings,
    Table,
    Value,
    check_name,
    defaults,
    flatten,
    nest,
    own_name,
    validate,
)
from study.errors import StudyError
from study.search.ranges import Range
from study.search.usual import CONDITIONS, DECIDED, OF_ENCODER, OPTIONAL, SEARCHED, SWITCHES


class StoredSpace(BaseModel):
    """What `SearchSpace.to_json` makes."""

    fixed: Settings
    ranges: dict[str, Range]
    kept: frozenset[str] = frozenset()
    only_planned: frozenset[str] = frozenset()
    is_own: bool = False


class SearchSpace:
    """The settings held fixed, and a range for each that is searched."""

    def __init__(
        self,
        fixed: Settings,
        ranges: dict[str, Range],
        kept: frozenset[str] = frozenset(),
        only_planned: frozenset[str] = frozenset(),
        is_own: bool = False,
    ) -> None:
        """Hold `fixed` settings and search `ranges`; those `kept` stay as they are whatever a method would have.

        The ranges `only_planned` are no part of the search: a trial has a value of them only if it was planned with it.
        A space `is_own` if it is of a trainable of the user's own, of whose settings only ranges are known.
        """
        self.fixed, self.kept, self.only_planned, self.is_own = fixed, kept, only_planned, is_own
        self._held = flatten(fixed.model_dump())
        # A condition's setting is asked for before those that depend on it.
        self.ranges = in_order(ranges)
        for name, values in self.ranges.items():
            for value in values.ends():
                self.settings({name: value})

    def applies(self, name: str, values: Mapping[str, Value]) -> bool:
        """Say whether a searched setting means anything, given the values chosen so far."""
        if name in self.ranges and not all(
            self.value_of(other, values) in meaningful for other, meaningful in self.ranges[name].only_if.items()
        ):
            return False
        if values.get("method", self.fixed.method) == "language-model" and (
            name in OF_ENCODER or name.startswith("objective.")
        ):
            return False
        if name not in CONDITIONS:
            return True
        return any(self.value_of(other, values) in meaningful for other, meaningful in CONDITIONS[name].items())

    def value_of(self, name: str, values: Mapping[str, Value]) -> object:
        """Return the value of a setting among those chosen so far, or the one that it is held at."""
        return values[name] if name in values else self._held.get(name)

    def condition(self, name: str) -> str:
        """Return in words what else must be for a setting to mean anything; nothing if it always does."""
        own = self.ranges[name].only_if if name in self.ranges else {}
        asked = [f"{other} is {' or '.join(map(str, meaningful))}" for other, meaningful in own.items()]
        known = [f"{other} is {' or '.join(sorted(values))}" for other, values in CONDITIONS.get(name, {}).items()]
        return " and ".join([*asked, *([" or ".join(known)] if known else [])])

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
        stored |= {"is_own": True} if self.is_own else {}
        return stored | ({"only_planned": sorted(self.only_planned)} if self.only_planned else {})

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> SearchSpace:
        """Rebuild a space that `to_json` stored; raise ValueError if it is none."""
        found = StoredSpace.model_validate(stored)
        return cls(found.fixed, found.ranges, found.kept, found.only_planned, found.is_own)


def in_order(ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return ranges with each after those that it depends on; raise StudyError if two depend on each other."""
    left = dict(sorted(ranges.items(), key=lambda item: (item[0] != "method", item[0] in CONDITIONS)))
    found: dict[str, Range] = {}
    while left:
        name = next((name for name, each in left.items() if not left.keys() & each.only_if.keys() - {name}), None)
        if name is None or name in left[name].only_if:
            raise StudyError(f"the conditions of {', '.join(left)} depend on each other; leave out one `only_if`")
        found[name] = left.pop(name)
    return found


def build_space(
    layers: list[Table],
    also: tuple[str, ...] = (),
    by_hand: frozenset[str] = frozenset(),
    *,
    is_own: bool = False,
) -> SearchSpace:
    """Return the space that tables of settings, later ones winning, leave of the default one.

    A setting that a table gives is held fixed; one that its `[search]` table names is searched there
    (`false` leaves it at its default). `also` names optional settings to search. Where methods are searched, what
    is given `by_hand` holds for all of them, and the rest is each method's own. The space of a trainable of the user's
    own starts empty, and its `[search]` may name whatever its `[own]` table could. Raises StudyError.
    """
    ranges: dict[str, Range] = {} if is_own else dict(SEARCHED)
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
        for written, stored in layer.get("search", {}).items():
            name = own_name(written) if is_own else written
            check_name(name)
            ranges.pop(name, None)
            if stored is not False:
                ranges[name] = parse_range(name, stored, own_name if is_own else str)
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
    space = SearchSpace(validate(nest(given)), ranges, frozenset(kept), is_own=is_own)
    if not is_own and (strange := [name for name in (*given, *ranges) if name.startswith(OWN)]):
        raise StudyError(f"{strange[0]} is a setting of a trainable of your own; name it by --trainable or --command")
    return space


def parse_range(name: str, stored: object, named: Callable[[str], str] = str) -> Range:
    """Check one entry of a `[search]` table, whose conditions are `named` in full; raise StudyError."""
    try:
        found = Range.model_validate(stored if isinstance(stored, dict) else {"values": stored})
        for other in found.only_if:
            check_name(named(other))
        found = found.model_copy(update={"only_if": {named(each): values for each, values in found.only_if.items()}})
        if isinstance(defaults().get(name), float) and found.low is not None:
            # Whole ends of a setting that is a fraction do not make it whole.
            found = found.model_copy(update={"low": float(found.low), "high": float(found.high or 0.0)})
    except ValidationError as error:
        first = error.errors()[0]
        raise StudyError(
            f"search range of {name}: {first['msg'].removeprefix('Value error, ')}, got {stored!r};"
            " expected { values = [...] } or { low = ..., high = ..., log = true }"
        ) from None
    return found
