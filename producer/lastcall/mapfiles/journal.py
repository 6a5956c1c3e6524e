"""Journal: the output of `lastcall map`, from which the next run knows what is done.

A line is written in one call, so that a process that is killed leaves whole lines and at most one torn one, at the end.
That is cut off. What the lines are results of is told by a file beside the output, written before the first line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from lastcall.errors import ConfigError

if TYPE_CHECKING:
    from lastcall.mapfiles.inputs import Input

VERSION: Final = 1
# How every line begins, so that an output is read again without parsing its values.
_LINE = re.compile(rb'\{"index": (\d+), "(value|repr|pickle|error)": ')


class Journal:
    """An output that is being written. `failed`: items whose error is in it; `done`: those and what has a value.

    path: "-" for stdout, which, as any pipe, cannot be taken up again. errors: where errors go that are put aside.
    """

    def __init__(self, path: str, errors: str | None) -> None:
        self.path, self.errors = path, errors
        self.done = self.failed = 0
        self.resumable = False
        self._bits = bytearray()  # one an item
        self._errors_fd: int | None = None
        if path == "-" and sys.stdout is None:
            raise ConfigError("--output", "a file, or a stdout that is open", "a closed stdout")
        self._fd = sys.stdout.fileno() if path == "-" else _open("--output", path)
        if path != "-" and _is_file(self._fd):
            self.resumable = True
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = os.fstat(self._fd).st_ino == os.stat(path).st_ino  # it was not replaced meanwhile
            except (BlockingIOError, FileNotFoundError):
                alone = False
            if not alone:
                os.close(self._fd)
                raise ConfigError(
                    "--output", "a file that nobody else writes", repr(path), "another `lastcall map` is at work on it"
                )
            if errors is not None and os.path.exists(errors) and os.path.samefile(path, errors):
                os.close(self._fd)
                raise ConfigError("--errors", "another file than --output", repr(errors))

    @property
    def head(self) -> str:
        """The path of the file that tells what the output's lines are results of."""
        return f"{self.path}.lastcall"

    @property
    def at_terminal(self) -> bool:
        return os.isatty(self._fd)

    def begin(self, function: str, inputs: Sequence[Input], *, restart: bool, retry_errors: bool) -> None:
        """Read what is done. restart: forget it. retry_errors: forget what failed.

        Raises ConfigError where it is the output of something else.
        """
        if not self.resumable:
            return
        try:
            self._begin(function, inputs, restart=restart, retry_errors=retry_errors)
        except OSError as error:
            raise ConfigError(
                "--output", "a file that can be read and written, as those beside it", repr(self.path), str(error)
            ) from error

    def _begin(self, function: str, inputs: Sequence[Input], *, restart: bool, retry_errors: bool) -> None:
        if restart:
            os.ftruncate(self._fd, 0)
            self._remove_errors()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.head)
        self._check(function, inputs)
        if retry_errors:
            self._remove_errors()
        self._cut(self._fd, self.path)
        if retry_errors:
            self._drop_error_lines()
        with open(self.path, "rb") as lines:
            self._read(lines, self.path)
        if self.errors is not None and os.path.isfile(self.errors):
            self._open_errors()
            with open(self.errors, "rb") as lines:
                self._read(lines, self.errors)

    def is_done(self, index: int) -> bool:
        at = index >> 3
        return at < len(self._bits) and bool(self._bits[at] >> (index & 7) & 1)

    def write(self, index: int, line: bytes, *, failed: bool = False, aside: bool = False) -> None:
        """Append an item's line. aside: to the errors' file."""
        fd = self._fd
        if aside:
            fd = self._open_errors()
        while line:
            try:
                line = line[os.write(fd, line) :]
            except BrokenPipeError:
                raise  # whoever read it has had enough
            except OSError as error:  # the disk is full, say: what is in the file stays good
                path = self.errors if aside else self.path
                again = ": the same command goes on from what is in it" if self.resumable else ""
                raise ConfigError(
                    "--errors" if aside else "--output", "a file that can be written", repr(path),
                    f"{error.strerror}{again}",
                ) from error  # fmt: skip
        self._mark(index, failed)

    def passed(self, index: int) -> None:
        """An item failed, and its line went elsewhere."""
        self._mark(index, True)

    def close(self) -> None:
        """Have it on the disk."""
        for fd in (self._fd, self._errors_fd):
            if fd is not None and self.resumable:
                if _is_file(fd):
                    os.fsync(fd)
                os.close(fd)

    def _mark(self, index: int, failed: bool) -> None:
        if self.is_done(index):
            return
        at = index >> 3
        if at >= len(self._bits):
            self._bits.extend(bytes(max(at + 1 - len(self._bits), len(self._bits) // 8)))
        self._bits[at] |= 1 << (index & 7)
        self.done += 1
        self.failed += failed

    def _check(self, function: str, inputs: Sequence[Input]) -> None:
        restart = "name another --output, or --restart to begin anew and lose what is in it"
        try:
            with open(self.head, encoding="utf-8") as file:
                before: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            if os.fstat(self._fd).st_size or (self.errors is not None and os.path.isfile(self.errors)):
                raise ConfigError(
                    "--output", "a new file, or one that lastcall map has written", repr(self.path),
                    f"there is no {self.head} that tells what is in it (or in {self.errors}); {restart}",
                ) from None  # fmt: skip
            self._write_head({"version": VERSION, "function": function, "inputs": [one.identity() for one in inputs]})
            return
        except ValueError as error:
            raise ConfigError("--output", "one that can be taken up", repr(self.path),
                              f"{self.head} cannot be read ({error}); {restart}") from None  # fmt: skip
        if before.get("version") != VERSION:
            changed = "it was written by another version of lastcall"
        elif before["function"] != function:
            changed = f"it has the results of {before['function']}, not of {function}"
        elif len(before["inputs"]) != len(inputs):
            changed = f"it was made of {len(before['inputs'])} inputs, these are {len(inputs)}"
        else:
            pairs = zip(inputs, before["inputs"], strict=True)
            changed = next((f"the input {one.name} has changed since" for one, was in pairs if not one.same(was)), "")
        if changed:
            raise ConfigError("--output", "of the same function and inputs", repr(self.path), f"{changed}; {restart}")

    def _write_head(self, head: dict[str, Any]) -> None:
        new = f"{self.head}.new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(head, file)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.head)

    def _cut(self, fd: int, path: str) -> None:
        """Cut off a last line that is torn."""
        size = end = os.fstat(fd).st_size
        with open(path, "rb") as file:
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                at = file.read(end - start).rfind(b"\n")
                if at >= 0:
                    end = start + at + 1
                    break
                end = start
        if end < size:
            os.ftruncate(fd, end)

    def _read(self, lines: Iterator[bytes], path: str) -> None:
        for number, line in enumerate(lines, 1):
            found = _LINE.match(line)
            if found is None or not line.endswith(b"}\n"):
                raise ConfigError(
                    "--output", "as lastcall map has written it", f"line {number} of {path}, {line[:60]!r}",
                    "mend that line or delete it, and what it was of is done again",
                )  # fmt: skip
            self._mark(int(found[1]), found[2] == b"error")

    def _open_errors(self) -> int:
        if self._errors_fd is None:
            assert self.errors is not None
            self._errors_fd = _open("--errors", self.errors)
            if self.resumable and _is_file(self._errors_fd):
                self._cut(self._errors_fd, self.errors)
        return self._errors_fd

    def _remove_errors(self) -> None:
        if self.errors is not None and os.path.isfile(self.errors):
            os.unlink(self.errors)

    def _drop_error_lines(self) -> None:
        """Write the output anew without its errors, if it has any; it is the old one or the new one at any moment."""

        def failed(line: bytes) -> bool:
            found = _LINE.match(line)
            return found is not None and found[2] == b"error"

        with open(self.path, "rb") as old:
            if not any(failed(line) for line in old):
                return
            old.seek(0)
            path = os.path.realpath(self.path)  # a link stays one
            new = f"{path}.new"
            with open(new, "wb") as kept:
                kept.writelines(line for line in old if not failed(line))
                kept.flush()
                os.fsync(kept.fileno())
        shutil.copymode(path, new)
        fd = _open("--output", new)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.replace(new, path)
        os.close(self._fd)
        self._fd = fd


def _open(option: str, path: str) -> int:
    """To append to; of a named pipe only when somebody reads it. Raises ConfigError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise ConfigError(option, "a file that can be written", repr(path), error.strerror or "") from error


def _is_file(fd: int) -> bool:
    """Rather than a pipe, a terminal or a device."""
    return stat.S_ISREG(os.fstat(fd).st_mode)
