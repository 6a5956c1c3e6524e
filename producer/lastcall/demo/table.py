"""A census as people and as scripts read it: a table, plain lines, JSON."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lastcall.demo.census import Census, stdlib

MOST_IMPORTED = 10


def render(census: Census, root: str | os.PathLike[str] | None = None) -> Table:
    """The table for a terminal. root: what paths are shown relative to, by default the library."""
    table = Table(title="A census of Python's standard library", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(census, root):
        number = isinstance(value, int)
        # Text, not str: in names and paths a bracket is a bracket, not markup.
        cell = Text(f"{value:,}" if number else str(value), justify="right" if number else "left")
        table.add_row(name, cell)
    return table


def plain_text(census: Census, root: str | os.PathLike[str] | None = None) -> str:
    """One `name<TAB>value` line a row, numbers without separators, for pipes."""
    return "".join(f"{name}\t{value}\n" for name, value in _rows(census, root))


def to_json(census: Census, root: str | os.PathLike[str] | None = None) -> dict[str, object]:
    """The whole census, all imports and errors included, in values that `json` takes."""
    longest = census.longest
    return {
        "files": census.files,
        "lines": census.lines,
        "functions": census.functions,
        "classes": census.classes,
        "unreadable": census.unreadable,
        "longest_function": longest
        and {
            "name": longest.name,
            "lines": longest.lines,
            "path": _shown(longest.path, root),
            "line": longest.line,
        },
        "imports": dict(census.most_imported(len(census.imports))),
        "errors": {_shown(path, root): why for path, why in sorted(census.errors.items())},
    }


def _rows(census: Census, root: str | os.PathLike[str] | None) -> list[tuple[str, int | str]]:
    longest = census.longest
    return [
        ("files", census.files),
        ("lines", census.lines),
        ("functions", census.functions),
        ("classes", census.classes),
        ("unreadable", census.unreadable),
        (
            "longest function",
            f"{longest.name}, {longest.lines} lines, {_shown(longest.path, root)}:{longest.line}"
            if longest
            else "none",
        ),
        (
            "imported most",
            ", ".join(f"{name} {n}" for name, n in census.most_imported(MOST_IMPORTED)) or "none",
        ),
    ]


def _shown(path: str, root: str | os.PathLike[str] | None) -> str:
    top = stdlib() if root is None else Path(root)
    return Path(path).relative_to(top).as_posix() if Path(path).is_relative_to(top) else path
