"""What each setting is, what it may be and where it is usually searched: from the types that check them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.config.settings import Settings, defaults

KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))


@dataclass(frozen=True)
class Described:
    """One setting as a list of them shows it."""

    name: str
    default: str
    allowed: str
    meaning: str


def described() -> list[Described]:
    """Return every setting, in the order of their tables."""
    schemas = dict(leaves(Settings.model_json_schema()))
    return [
        Described(name, shown(value), allowed(schemas[name]), str(schemas[name].get("description", "")))
        for name, value in defaults().items()
    ]


def leaves(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each setting's dotted name and its JSON schema."""
    tables = schema["$defs"]
    for name, one in schema["properties"].items():
        reference = one.get("$ref", "").rpartition("/")[2]
        if reference in tables:
            for inner, leaf in tables[reference]["properties"].items():
                yield f"{name}.{inner}", leaf
        else:
            yield name, one


def allowed(schema: Mapping[str, Any]) -> str:
    """Return in words what a setting may be."""
    if "anyOf" in schema:
        return " or ".join("unset" if kind.get("type") == "null" else allowed(kind) for kind in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    bounds = " and ".join(f"{sign} {schema[name]:,}" for name, sign in BOUNDS if name in schema)
    return f"{KINDS[schema['type']]} {bounds}".strip()


def shown(value: object) -> str:
    """Return a setting's value as a list of settings shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None else str(value) if value != "" else "none"
