"""Points of the space that a user wants tried before the sampler proposes any: `--try`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from study.config.settings import Params, Value, check_name, flatten, own_name, parse_assignment, read_toml
from study.errors import StudyError, first_line
from study.search.space import SearchSpace

FILES = (".toml", ".csv", ".parquet")
OF_EXPORT = ("trial", "state", "reason", "feasible", "epochs", "seconds", "best_epoch", "run_id")
"""Columns that `study export` writes beside settings and metrics."""
TABLE = "try"
"""The array of tables of a TOML file with several points."""


def asked_points(tries: Iterable[str], space: SearchSpace, *, may_be_outside: bool) -> list[Params]:
    """Return the points of each `--try`, each once: assignments with blanks between, or a file of points.

    Raises StudyError for a file that holds none, for a setting that has no effect, and for a value outside the space,
    unless it may be.
    """
    found: list[Params] = []
    for text in tries:
        for given in read_points(text, own_name if space.is_own else str):
            point = checked(given, space, text, may_be_outside=may_be_outside)
            check_effect(point, space, text, drop=is_file(text))
            if point not in found:
                found.append(point)
    return found


def read_points(text: str, named: Callable[[str], str]) -> list[dict[str, object]]:
    """Return the points of one `--try` as they are written, each setting as it is `named` in full."""
    if not text.strip():
        raise StudyError("--try is empty; expected NAME=VALUE with blanks between, or a .toml, .csv or .parquet file")
    path = Path(text)
    if is_file(text):
        written = read_toml_points(path) if path.suffix == ".toml" else read_rows(path)
        points = [{named(name): value for name, value in point.items()} for point in written]
        for name in (name for point in points for name in point):
            check_name(name)
        if not points:
            raise StudyError(f"--try {path}: no point in it; expected settings by their names, as `study settings` has")
        return points
    given = [parse_assignment(each, named) for each in text.split()]
    names = [name for name, _ in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StudyError(f"--try {text}: {twice[0]} is given twice; give each point by a --try of its own")
    return [dict(given)]


def is_file(text: str) -> bool:
    """Say whether a `--try` names a file."""
    return Path(text).suffix in FILES and ("=" not in text or Path(text).is_file())


def read_toml_points(path: Path) -> list[dict[str, object]]:
    """Return the points of a TOML file: its settings, or those of each of its `[[try]]` tables."""
    table = read_toml(path)
    tables = table.get(TABLE, [{name: value for name, value in table.items() if name not in ("study", "search")}])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise StudyError(f"--try {path}: expected an array of tables, [[{TABLE}]], got {tables!r}")
    points = [flatten(each) for each in tables]
    return [point for point in points if point]


def read_rows(path: Path) -> list[dict[str, object]]:
    """Return the points of a CSV or parquet file, a row each; what `study export` writes beside settings is left."""
    import polars as pl

    if not path.is_file():
        raise StudyError(f"--try {path}: no such file")
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StudyError(f"--try {path} cannot be read: {first_line(error)}") from None
    if "epoch" in frame.columns:
        raise StudyError(f"--try {path} has a row for each epoch; `study export --rows trials` has one for each trial")
    names = [name for name in frame.columns if name not in OF_EXPORT and "/" not in name]
    rows = [{name: row[name] for name in names if row[name] is not None} for row in frame.iter_rows(named=True)]
    return [row for row in rows if row]


def checked(given: Mapping[str, object], space: SearchSpace, text: str, *, may_be_outside: bool) -> Params:
    """Return a point in the kinds of its settings, without what the study holds at that value anyway."""
    held = flatten(space.fixed.model_dump())
    point: Params = {}
    for name, value in given.items():
        # `seed` may be planned by a pooling test; of the search it is one that is held.
        allowed = space.searched.get(name)
        if allowed is None and held.get(name) == value:
            continue
        if value is None or not isinstance(value, bool | int | float | str):
            raise StudyError(f"--try {text}: {name} takes one value, got {value!r}")
        point[name] = in_kind(value, held.get(name, value))
        if (allowed is None or not allowed.holds(point[name])) and not may_be_outside:
            where = f"is held at {held.get(name)}" if allowed is None else f"is searched among {allowed}"
            raise StudyError(f"--try {text}: {name} = {value}, which {where}; --try-outside tries it all the same")
    # Kinds and combinations.
    space.settings(point)
    return point


def check_effect(point: Params, space: SearchSpace, text: str, *, drop: bool) -> None:
    """Raise StudyError for a setting that has no effect beside the others; `drop` takes it out of the point instead.

    A file of a whole trial has those as well.
    """
    for name in [name for name in point if space.condition(name) and not space.applies(name, point)]:
        if not drop:
            raise StudyError(f"--try {text}: {name} has an effect only while {space.condition(name)}; add that")
        del point[name]


def in_kind(value: Value, usual: object) -> Value:
    """Return a number as the setting has it: whole, or a fraction."""
    if isinstance(usual, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return int(value) if isinstance(usual, int) and isinstance(value, float) and value == int(value) else value
