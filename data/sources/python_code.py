"""Statements of Python modules: code that is short, regular and at hand wherever Python is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return, ast.Raise, ast.Assert, ast.Delete)
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__")


def statements(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield text, module and kind of each simple statement of one line in the modules under a folder.

    Documentation is not code: strings that stand alone are left out.
    """
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if any(part in LEFT_OUT for part in name.parts):
            continue
        try:
            source = path.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        lines = source.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, SIMPLE) or node.lineno != node.end_lineno:
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            # Columns count bytes.
            line = lines[node.lineno - 1].encode()
            yield line[node.col_offset : node.end_col_offset].decode(), str(name), type(node).__name__
