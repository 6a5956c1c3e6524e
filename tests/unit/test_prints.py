"""What carries the prints of a private cluster's functions: lines on the workers' side, the client's standard error."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Iterator

import pytest

from lastcall.prints import relay
from lastcall_worker import prints
from lastcall_worker.prints import Lines


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)
        self.stream = io.TextIOWrapper(Lines(self.write_end), "utf-8", "backslashreplace", write_through=True)

    def take(self) -> str:
        """All that has been written."""
        try:
            return os.read(self.read_end, 1 << 20).decode()
        except BlockingIOError:
            return ""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.write_end)
    os.close(pipe.read_end)


def test_a_line_is_written_when_it_is_whole_or_flushed(pipe: Pipe) -> None:
    print("a", end="", file=pipe.stream)
    assert pipe.take() == ""
    print("b", "c", file=pipe.stream)
    assert pipe.take() == "ab c\n"
    print("...", end="", file=pipe.stream, flush=True)
    assert pipe.take() == "..."
    print("\udce4ö", file=pipe.stream)
    assert pipe.take() == "\\udce4ö\n"
    pipe.stream.buffer.write(b"bytes\nand ")
    assert pipe.take() == "bytes\n"


def test_lines_of_threads_are_not_mixed(pipe: Pipe) -> None:
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        print("other", end=" ", file=pipe.stream)
        begun.set()
        assert done.wait(30)
        print("thread", file=pipe.stream)

    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(30)
    print("this", "thread", file=pipe.stream)
    done.set()
    thread.join()
    assert pipe.take() == "this thread\nother thread\n"


def test_long_texts_go_in_pieces_of_whole_lines(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    monkeypatch.setattr(Lines, "_send_piece", lambda self, piece: pieces.append(piece))
    lines, endless = "line\n" * select.PIPE_BUF, "x" * (3 * select.PIPE_BUF)
    pipe.stream.write(lines + endless)
    assert b"".join(pieces).decode() == lines + endless
    assert max(map(len, pieces)) <= select.PIPE_BUF
    assert all(piece.endswith(b"\n") for piece in pieces if b"line" in piece)


def test_what_nobody_reads_is_left_out_until_there_is_room(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prints, "_PATIENCE_S", 0.05)
    for number in range(100_000):
        print(number, file=pipe.stream)
    written = pipe.take().split()
    assert written == [str(number) for number in range(len(written))]
    assert 100 < len(written) < 100_000
    print("room", file=pipe.stream)
    assert pipe.take() == "room\n"


def test_a_pipe_without_a_reader_is_silence() -> None:
    pipe = Pipe()
    os.close(pipe.read_end)
    print("anyone?", file=pipe.stream)
    os.close(pipe.write_end)


def relayed(data: bytes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    relay(read_end)
    os.close(read_end)


def test_the_client_writes_to_what_its_standard_error_is(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with capfd.disabled():
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        relayed("ä notebook\n".encode() + b"\xff\n")
        assert sys.stderr.getvalue() == "ä notebook\n\ufffd\n"
        sys.stderr.close()
        relayed(b"closed\n")
        monkeypatch.setattr(sys, "stderr", None)
        relayed(b"none\n")
    with open(2, "w", encoding="ascii", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(sys, "__stderr__", stderr)
        relayed("ö terminal\n".encode())
    assert capfd.readouterr().err == "\\xf6 terminal\n"
