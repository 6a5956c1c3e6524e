"""relay(): what functions print on a private cluster's workers appears on the client's standard error.

The workers write it to a named pipe in the cluster's private directory, line by line (lastcall_worker/prints.py); a
thread of the client reads that. So it appears where sys.stderr is something else than the program's, too: in a
notebook, or above a progress bar.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

VARIABLE = "LASTCALL_PRINTS"  # tells the workers the pipe's path
_READ_BYTES = 65536


def relay(read_end: int) -> None:
    """Write what comes from a pipe to sys.stderr, until its end.

    A standard error that is closed, or that nobody reads any more, is silence: the pipe is read to its end.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(read_end, _READ_BYTES):
        _write(decoder.decode(data))


def _write(text: str) -> None:
    stream, own = sys.stderr, sys.__stderr__
    if stream is None:  # it was closed when the program began
        return
    if own is None or stream is not own:
        with contextlib.suppress(Exception):  # whatever somebody's own stream raises: the next line may fare better
            stream.write(text)
            stream.flush()
        return
    # Not through its buffer, which would keep what a broken pipe does not take, and make that the program's exit code;
    # nor hold its lock, which the interpreter's end waits for.
    with contextlib.suppress(OSError, ValueError):
        data = text.encode(own.encoding, "backslashreplace")
        while data:
            data = data[os.write(own.fileno(), data) :]
