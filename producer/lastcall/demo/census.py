"""A census of Python source files, by default of the running Python's standard library.

Each function is a step that can run wherever the same Python is installed: `walk` (producers),
`read` (waits for the disk: threads), `parse` (burns the CPU: processes), `Census.add` (whoever
gathers). What a step cannot make sense of is a result too: the library holds files that are broken
on purpose, for its own tests.
"""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import tokenize
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__"})

# The file name that sources are parsed under, and what the parser's warnings about them match.
_PARSED_AS = "<census>"
_HUSHED = r"<census>\Z"

_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
# The fields of a statement that hold statements (or handlers and cases, which hold them in turn).
_BLOCKS = frozenset({"body", "handlers", "orelse", "finalbody", "cases"})


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text, or why it has none."""

    path: str
    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """Where a function stands and how long it is, from its `def` line to its last."""

    path: str
    line: int
    name: str  # dotted: Class.method, outer.inner
    lines: int

    @property
    def rank(self) -> tuple[int, str, int, str]:
        """Sorts the longest first, equals by path and line: every order of counting agrees."""
        return (-self.lines, self.path, self.line, self.name)


@dataclass(frozen=True, slots=True)
class FileCensus:
    """What one file holds."""

    path: str
    lines: int = 0
    functions: int = 0  # def and async def, at any depth; methods too, lambdas not
    classes: int = 0
    longest: Function | None = None
    imports: tuple[tuple[str, int], ...] = ()  # (top-level package, import statements that name it)
    error: str | None = None  # why it could not be decoded or parsed


@dataclass(slots=True)
class Census:
    """The files counted so far. They may be added in any order: the outcome is the same."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    longest: Function | None = None
    imports: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)  # path: why it could not be read

    @property
    def unreadable(self) -> int:
        """Files that could not be decoded or parsed. Counted in `files`; in `lines` if decoded."""
        return len(self.errors)

    def add(self, file: FileCensus) -> None:
        """Count one file."""
        self.files += 1
        self.lines += file.lines
        self.functions += file.functions
        self.classes += file.classes
        self.longest = _longer(self.longest, file.longest)
        self.imports.update(dict(file.imports))
        if file.error is not None:
            self.errors[file.path] = file.error

    def merge(self, other: Census) -> None:
        """Count all that another census, of other files, has counted."""
        self.files += other.files
        self.lines += other.lines
        self.functions += other.functions
        self.classes += other.classes
        self.longest = _longer(self.longest, other.longest)
        self.imports.update(other.imports)
        self.errors.update(other.errors)

    def most_imported(self, n: int = 10) -> list[tuple[str, int]]:
        """The n packages that most import statements name, the most used first, equals by name."""
        return sorted(self.imports.items(), key=lambda pair: (-pair[1], pair[0]))[:n]

    def differences(self, other: Census) -> list[str]:
        """What another census counted otherwise, as `lines: 10 here, 9 there`; empty if equal."""
        found = []
        for name in (each.name for each in fields(self)):
            here, there = getattr(self, name), getattr(other, name)
            if here == there:
                continue
            if isinstance(here, dict):  # imports, errors: one entry says enough
                keys = here.keys() | there.keys()
                key = min(key for key in keys if here.get(key) != there.get(key))
                found.append(f"{name}[{key!r}]: {here.get(key)} here, {there.get(key)} there")
            else:
                found.append(f"{name}: {here} here, {there} there")
        return found


def stdlib() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def walk(share: int, shares: int, root: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """The paths of share number `share` (from 0) of the tree's *.py files, sorted.

    The shares are disjoint and together the whole, and a file's share depends on its name alone:
    walkers in different processes or containers need not talk. Installed packages are left out,
    the library's own tests are not. root: the tree, by default the standard library.
    Raises ValueError for a share that does not exist, NotADirectoryError for a root that is none.
    """
    if shares < 1:
        raise ValueError(f"shares must be a positive int, got {shares}")
    if not 0 <= share < shares:
        raise ValueError(f"share must be from 0 to {shares - 1} (of {shares} shares), got {share}")
    top = stdlib() if root is None else Path(root)
    if not top.is_dir():
        raise NotADirectoryError(f"expected a folder of Python files, got {os.fspath(top)!r}")
    return _walk(share, shares, top)


def _walk(share: int, shares: int, top: Path) -> Iterator[str]:
    found = []
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in names:
            path = os.path.join(folder, name)
            inside = os.path.relpath(path, top).replace(os.sep, "/")
            # os.path.isfile: a link to nowhere is not a file of the library.
            if name.endswith(".py") and _share_of(inside, shares) == share and os.path.isfile(path):
                found.append(path)
    yield from sorted(found)


def _share_of(inside: str, shares: int) -> int:
    return zlib.crc32(os.fsencode(inside)) % shares


def read(path: str) -> Source:
    """Decode a file as Python does: its byte order mark, its coding line, or UTF-8.

    A file that does not decode is a Source with an error. Raises OSError for one that is not there:
    then this machine's library is not the one that was walked, and its census would be another one.
    """
    try:
        with tokenize.open(path) as file:
            return Source(path, file.read())
    except (SyntaxError, UnicodeDecodeError) as error:
        # The message may end with the path, which the Source has anyway.
        return Source(path, "", f"{type(error).__name__}: {error}".replace(f" for {path!r}", ""))


def parse(source: Source) -> FileCensus:
    """Count what a source holds. One that does not parse has its lines counted and an error."""
    if source.error is not None:
        return FileCensus(source.path, error=source.error)
    lines = source.text.count("\n") + (not source.text.endswith("\n") and source.text != "")
    _hush()
    try:
        tree = ast.parse(source.text, _PARSED_AS)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # ValueError: null bytes before 3.11.4. MemoryError: the parser's own stack, not the RAM.
        reason = f"{type(error).__name__}: {error}".replace(f"({_PARSED_AS}, line", "(line")
        return FileCensus(source.path, lines, error=reason)
    statements = list(_statements(tree))
    functions = list(_functions(source.path, statements))
    return FileCensus(
        path=source.path,
        lines=lines,
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node, _ in statements),
        longest=min(functions, key=lambda function: function.rank, default=None),
        imports=tuple(sorted(Counter(_imported(statements)).items())),
    )


def count(paths: Iterable[str]) -> Census:
    """Read, parse and add up files one after the other, in this process."""
    census = Census()
    for path in paths:
        census.add(parse(read(path)))
    return census


def plain(root: str | os.PathLike[str] | None = None) -> Census:
    """The whole census by a plain loop: what the same census by queues and workers must equal."""
    return count(walk(0, 1, root))


def _longer(one: Function | None, other: Function | None) -> Function | None:
    both = [function for function in (one, other) if function is not None]
    return min(both, key=lambda function: function.rank, default=None)


def _hush() -> None:
    """Keep the parser's remarks about old code (invalid escapes) off the user's terminal.

    A filter for the name that sources are parsed under, not warnings.catch_warnings: that one swaps
    the process's filters to and fro, and threads that overlap in it leave the wrong ones behind.
    """
    first = warnings.filters[:1]
    if not first or first[0][:4] != ("ignore", None, Warning, re.compile(_HUSHED)):
        warnings.filterwarnings("ignore", module=_HUSHED)


def _statements(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every statement with the dotted name it stands in ("" for the module's own).

    Statements only: no expression holds a function, a class or an import, and expressions are most
    of a tree. With a stack, not by recursion: sources nest deeper than Python likes to recurse.
    """
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, within = stack.pop()
        yield node, within
        if isinstance(node, _FUNCTION | ast.ClassDef):
            within = _dotted(within, node.name)
        for block in _BLOCKS.intersection(node._fields):
            stack.extend((child, within) for child in getattr(node, block))


def _functions(path: str, statements: Iterable[tuple[ast.AST, str]]) -> Iterator[Function]:
    for node, within in statements:
        if isinstance(node, _FUNCTION):
            last = node.end_lineno or node.lineno
            yield Function(path, node.lineno, _dotted(within, node.name), last - node.lineno + 1)


def _imported(statements: Iterable[tuple[ast.AST, str]]) -> Iterator[str]:
    """Top-level names: `import os.path` is os. Relative imports name no package: not counted."""
    for node, _ in statements:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _dotted(within: str, name: str) -> str:
    return f"{within}.{name}" if within else name
