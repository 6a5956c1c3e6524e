"""What functions print, and log as warnings, on a private cluster goes to its client: producer/lastcall/prints.py.

What Celery and lastcall themselves say stays in the worker's log, whose standard output and error are.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from lastcall_worker.node import pool_name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PATIENCE_S = 2.0
_NOT_FUNCTIONS = {"amqp", "billiard", "celery", "kombu", "lastcall", "lastcall_worker", "multiprocessing", "redis"}


def show_prints(app: Celery, path: str) -> None:
    """Have the functions of this app's workers print to the named pipe at `path`. To be called after attach()."""
    log = sys.stdout, sys.stderr
    app.conf.worker_redirect_stdouts = False  # into Celery's log

    def in_child(**_: Any) -> None:
        _replace_streams(path)

    def in_worker(instance: Any, **_: Any) -> None:
        if pool_name(instance.pool) != "prefork":  # functions run in this process
            sys.excepthook = partial(_to_log, log[1])
            _replace_streams(path)

    def leave_child(**_: Any) -> None:  # after attach()'s: what closes a resource may print, too
        shown = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = log  # for the tracebacks with which billiard's processes end
        for stream in shown:
            with suppress(AttributeError, ValueError):  # a function's own, or closed by one
                stream.flush()

    signals.worker_process_init.connect(in_child, weak=False)
    signals.worker_process_shutdown.connect(leave_child, weak=False)
    signals.celeryd_after_setup.connect(in_worker, weak=False)


def _replace_streams(path: str) -> None:
    try:
        # Not to wait: a client that is gone reads no more, and ends this process.
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    sys.stdout, sys.stderr = _stream(pipe), _stream(pipe)
    logging.getLogger().addHandler(_Warnings(sys.stderr))


def _to_log(log: Any, *error: Any) -> None:
    traceback.print_exception(*error, file=log)


def _stream(pipe: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(Lines(pipe), "utf-8", "backslashreplace", write_through=True)


class _Warnings(logging.StreamHandler[Any]):
    """What Python does where a program sets up no logging, but for what Celery and lastcall say."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.setLevel(logging.WARNING)
        self.addFilter(lambda record: record.name.partition(".")[0] not in _NOT_FUNCTIONS)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).rstrip("\n")  # those of the module warnings end so


class Lines(io.BufferedIOBase):
    """Writes whole lines to a pipe, each thread its own; one that is begun when it is flushed, too.

    pipe: does not block. Lines of up to 4 kB (PIPE_BUF) of several processes are not mixed. What nobody reads is
    waited for, 2 s, then left out until there is room again.
    """

    name = "<prints>"

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._mine = threading.local()
        self._room = select.poll()
        self._room.register(pipe, select.POLLOUT)
        self._stuck = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._pipe

    def write(self, data: ReadableBuffer) -> int:
        data = bytes(data)
        lines, newline, rest = (self._begun() + data).rpartition(b"\n")
        self._mine.begun = rest
        self._send(lines + newline)
        if len(rest) > select.PIPE_BUF:
            self.flush()
        return len(data)

    def flush(self) -> None:
        begun, self._mine.begun = self._begun(), b""
        self._send(begun)

    def _begun(self) -> bytes:
        return getattr(self._mine, "begun", b"")

    def _send(self, data: bytes) -> None:
        while data:
            end = len(data)
            if end > select.PIPE_BUF:
                end = data.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
            self._send_piece(data[:end])
            data = data[end:]

    def _send_piece(self, piece: bytes) -> None:
        deadline = time.monotonic() + (0.0 if self._stuck else _PATIENCE_S)
        while True:
            try:
                os.write(self._pipe, piece)  # all of it or nothing, since it is so short
            except BlockingIOError:
                left_s = deadline - time.monotonic()
                self._stuck = left_s <= 0
                if self._stuck:
                    return
                self._room.poll(left_s * 1000)
            except OSError:  # nobody reads it any more
                return
            else:
                self._stuck = False
                return
