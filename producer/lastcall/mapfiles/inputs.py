"""Inputs: items out of files, pipes and globs, read lazily; and how to know them again.

An item's index is its number over all inputs, from 0, in the order in which these are named.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import select
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

from lastcall.errors import ConfigError
from lastcall.feed import NotYet

_JSON = (".jsonl", ".ndjson")
_WHOLE_BYTES: Final = 16 << 20  # up to here a file is known by what is in it, beyond by its size and time
_PIPE_S: Final = 0.01  # to wait for a pipe before results are looked at
_SIGNAL_S: Final = 0.5  # to wait at once: a signal that comes just before is heeded after it
_READ_BYTES: Final = 1 << 16
_BAD_AHEAD: Final = 1000  # refused items that wait for results before them


class BadItem(ValueError):
    """A line is not what it is read as: not UTF-8, or not JSON."""


class Input:
    """One of the inputs. `name`: as it was given."""

    count: int | None = None  # how many items, where that is known

    def __init__(self, name: str) -> None:
        self.name = name

    def identity(self) -> dict[str, Any]:
        """Equal for an input of the same items."""
        raise NotImplementedError

    def same(self, before: dict[str, Any]) -> bool:
        """Whether that was the identity of the same items."""
        return self.identity() == before

    def items(self) -> Iterator[Any]:
        """Functions that give an item, or raise BadItem; one is called only if its item is wanted. May raise NotYet."""
        raise NotImplementedError


class Paths(Input):
    """A glob: the paths of the files that it matches, sorted."""

    def __init__(self, pattern: str, without: Sequence[str]) -> None:
        super().__init__(pattern)
        apart = {os.path.abspath(path) for path in without}
        self._paths = sorted(
            path
            for path in glob.iglob(pattern, recursive=True)
            if os.path.isfile(path) and os.path.abspath(path) not in apart
        )
        if not self._paths:
            raise ConfigError("--input", "a file, - or a glob of some", repr(pattern), "no file is called that")
        self.count = len(self._paths)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for path in self._paths:
            digest.update(os.fsencode(path) + b"\0")
        return {"paths": len(self._paths), "digest": digest.hexdigest()}

    def items(self) -> Iterator[Any]:
        return ((lambda path=path: path) for path in self._paths)


class Lines(Input):
    """Lines: as strings without their ends, or as JSON, where empty ones are passed over."""

    def __init__(self, name: str, as_json: bool) -> None:
        super().__init__(name)
        self._as_json = as_json

    def items(self) -> Iterator[Any]:
        for number, line in enumerate(self._lines(), 1):
            if not self._as_json or line.strip():
                yield lambda line=line, number=number: self._item(line, number)

    def _lines(self) -> Iterator[bytes]:
        raise NotImplementedError

    def _item(self, line: bytes, number: int) -> Any:
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
            return json.loads(text) if self._as_json else text
        except (ValueError, RecursionError) as error:
            what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
            raise BadItem(f"line {number} of {self.name} is not {what}: {error}") from None


class File(Lines):
    """Lines of a file. A small one is known by its digest, so that it may be copied or touched."""

    def __init__(self, name: str, as_json: bool) -> None:
        super().__init__(name, as_json)
        found = os.stat(name)
        self._identity: dict[str, Any] = {"json": as_json, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
        if found.st_size <= _WHOLE_BYTES:
            digest, self.count = hashlib.blake2b(digest_size=16), 0
            for line in self._lines():
                digest.update(line)
                self.count += not as_json or bool(line.strip())
            self._identity["digest"] = digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        return self._identity

    def same(self, before: dict[str, Any]) -> bool:
        known = "mtime_ns" if "digest" not in self._identity else "digest"
        return all(self._identity[key] == before.get(key) for key in ("json", "size", known))

    def _lines(self) -> Iterator[bytes]:
        try:
            with open(self.name, "rb") as file:
                yield from file
        except OSError as error:
            raise _unreadable(self.name, error) from None


class Pipe(Lines):
    """Lines of a pipe or terminal, as they come. It is known by its first line alone: the rest is yet to come."""

    def __init__(self, name: str, as_json: bool) -> None:
        super().__init__(name, as_json)
        if name == "-" and sys.stdin is None:
            raise ConfigError("--input", "a file, or a stdin that is open", "a closed stdin")
        self._file: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115  # until the end
        self._lines_read: deque[bytes] = deque()
        self._torn: list[bytes] = []  # pieces of the line whose end is yet to come
        self._ended = False

    def identity(self) -> dict[str, Any]:
        while not self._ended and not self._lines_read:
            with contextlib.suppress(NotYet):
                self._read(_SIGNAL_S)
        first = self._lines_read[0].removesuffix(b"\n") if self._lines_read else b""
        return {"json": self._as_json, "first line": hashlib.blake2b(first, digest_size=16).hexdigest()}

    def items(self) -> Iterator[Any]:
        # Not a generator, which could not go on after NotYet.
        return _PipeItems(self)

    def line(self) -> bytes | None:
        """The next line; None at the end. Raises NotYet."""
        while not self._lines_read and not self._ended:
            self._read(_PIPE_S)
        return self._lines_read.popleft() if self._lines_read else None

    def _read(self, wait_s: float) -> None:
        if not select.select([self._file], [], [], wait_s)[0]:
            raise NotYet
        data = os.read(self._file.fileno(), _READ_BYTES)
        for piece in io.BytesIO(data):  # lines, the last one perhaps without its end
            self._torn.append(piece)
            if piece.endswith(b"\n"):
                self._end_line()
        if not data:
            self._ended = True
            if self.name != "-":
                self._file.close()
            if self._torn:
                self._end_line()

    def _end_line(self) -> None:
        self._lines_read.append(b"".join(self._torn))
        self._torn.clear()


class _PipeItems(Iterator[Any]):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._number = 0

    def __next__(self) -> Callable[[], Any]:
        while (line := self._pipe.line()) is not None:
            self._number += 1
            if not self._pipe._as_json or line.strip():
                return lambda line=line, number=self._number: self._pipe._item(line, number)  # type: ignore[misc]
        raise StopIteration


def open_input(name: str, as_json: bool | None, without: Sequence[str] = ()) -> Input:
    """The input of that name: "-", a file, a pipe, or a glob.

    as_json: whether lines are JSON; None: those of *.jsonl and *.ndjson are. without: paths that are written ("-":
    stdout), which a glob leaves out and which cannot be inputs. Raises ConfigError.
    """
    if any(_same_file(name, path) for path in without):
        raise ConfigError("--input", "another file than those that are written", repr(name), "name another --output")
    lines_are_json = name.endswith(_JSON) if as_json is None else as_json
    if name == "-":
        return Pipe(name, lines_are_json)
    try:
        mode = os.stat(name).st_mode
    except OSError as error:
        if glob.has_magic(name):
            return Paths(name, without)
        raise ConfigError("--input", "a file, - or a glob", repr(name), error.strerror or str(error)) from None
    if stat.S_ISDIR(mode):
        raise ConfigError("--input", "a file, - or a glob", f"the directory {name!r}", f"say {name.rstrip('/')}/**")
    try:
        return File(name, lines_are_json) if stat.S_ISREG(mode) else Pipe(name, lines_are_json)
    except OSError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: OSError) -> ConfigError:
    return ConfigError("--input", "a file that can be read", repr(name), error.strerror or str(error))


def _same_file(name: str, written: str) -> bool:
    """Whether that input is that output, and a file: one that is read while it is written has no end."""
    try:
        read = os.fstat(0) if name == "-" else os.stat(name)
        return stat.S_ISREG(read.st_mode) and os.path.samestat(
            read, os.fstat(1) if written == "-" else os.stat(written)
        )
    except OSError:  # one of them is not there
        return False


class Items(Iterator[Any]):
    """The items of all inputs that are not done, one after the other.

    is_done: by index. refused: told of an item that cannot be read: index, why. in_order: is told of it when the items
    before it are no longer under way, else at once.
    """

    def __init__(
        self, inputs: Sequence[Input], is_done: Callable[[int], bool], refused: Callable[[int, BadItem], None],
        *, in_order: bool = False,
    ) -> None:  # fmt: skip
        self._under_way: dict[int, tuple[int, Any]] = {}  # place among those that were given -> index, item
        self._bad: deque[tuple[int, BadItem]] = deque()  # what `refused` is to be told
        self._in_order = in_order
        self._coming = iter([source.items() for source in inputs])
        self._items: Iterator[Any] = iter(())
        self._is_done, self._refused = is_done, refused
        self._index = self._given = 0

    def __next__(self) -> Any:
        while True:
            if self._bad and (not self._in_order or not self._under_way):
                self.tell_refused()
            if len(self._bad) >= _BAD_AHEAD:
                time.sleep(_PIPE_S)
                raise NotYet
            read = next(self._items, None)
            if read is None:
                self._items = next(self._coming)  # StopIteration after the last one
                continue
            index = self._index
            self._index += 1
            if self._is_done(index):
                continue
            try:
                item = read()
            except BadItem as error:
                self._bad.append((index, error))
                continue
            self._under_way[self._given] = index, item
            self._given += 1
            return item

    def take(self, place: int) -> tuple[int, Any]:
        """The index and the item that was given as the place-th, from 0, and has its result now."""
        index, item = self._under_way.pop(place)
        if self._in_order:
            self.tell_refused(index)
        return index, item

    def tell_refused(self, before: int | None = None) -> None:
        """Tell of the items that were refused, all or those before an index."""
        while self._bad and (before is None or self._bad[0][0] < before):
            self._refused(*self._bad.popleft())
