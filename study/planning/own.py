"""Studies of a trainable of the user's own: what must hold before the first trial."""

from __future__ import annotations

from pathlib import Path

from study.config.request import RunRequest
from study.config.settings import Params, told
from study.errors import StudyError
from study.search.definition import Definition
from study.search.pooling_test import middle
from study.search.space import SearchSpace
from study.trainable.loading import check_places, check_program, find
from study.trainable.loop import train_own


def check_trainable(request: RunRequest, space: SearchSpace) -> None:
    """Raise StudyError unless the trainable that was asked for can be found and called with a space's settings."""
    if request.trainable and request.shell:
        raise StudyError("--trainable and --command are two ways to train; give one of them")
    code = request.code
    if code is None:
        given = [name for name in ("space", "check") if name in request.given]
        if given:
            raise StudyError(f"--{given[0]} is of a trainable of your own; name it by --trainable or --command")
        return
    if request.corpus is not None or request.preset is not None:
        name = "a CORPUS" if request.corpus is not None else "--preset"
        raise StudyError(
            f"a trainable of your own reads its own data, and knows nothing of {name}; leave it out, and put what it"
            " needs, such as a path, into the [own] table of --space"
        )
    if code.command:
        check_program(code)
        check_places(code.command, {**told(space.fixed), **dict.fromkeys(short(space)), "folder": "", "seed": 0})
    elif request.function is None:
        find(code)


def short(space: SearchSpace) -> list[str]:
    """Return the names of what is searched as a trainable is told them."""
    return [name.removeprefix("own.") for name in space.ranges]


def check_one_epoch(definition: Definition, folder: Path) -> list[str]:
    """Have a trainable train one epoch in the middle of its space; return in lines what was read. Raises StudyError."""
    assert definition.code is not None
    values: Params = {}
    for name, allowed in definition.space.searched.items():
        if definition.space.applies(name, values):
            values[name] = middle(name, allowed)
    settings = definition.settings(definition.num_tested, values)
    row = next(train_own(find(definition.code), settings, folder, ranked=definition.goal.ranked), None)
    if row is None:
        raise StudyError("the trainable yielded no epoch")
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.metrics.items())
    shown = ", ".join(f"{name.removeprefix('own.')} {value}" for name, value in values.items()) or "no searched setting"
    return [f"one epoch with {shown} took {row.seconds:.1f} s", f"read: {numbers}"]
