"""Whether this process ends by an exception: who put into a queue and then failed was lost, and did not leave.

multiprocessing's children end in order all the same. Before Python 3.13 the exception is on its way then; since then it
is gone, and what is left is the exit code that the frame of Process._bootstrap() came to. A spawned process runs
nothing of ours before its own function, so there is no better place to look.
"""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

_bootstraps: dict[int, FrameType] = {}  # by process: a fork inherits its parent's
_code: Any = BaseProcess._bootstrap.__code__  # type: ignore[attr-defined]


def watch() -> None:
    """This process has begun something that it may fail in."""
    if os.getpid() in _bootstraps:
        return
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_code is not _code:
        frame = frame.f_back
    if frame is not None:
        _bootstraps[os.getpid()] = frame


def fails() -> bool:
    """Asked at the end of the process."""
    frame = _bootstraps.get(os.getpid())
    if frame is not None and frame.f_locals.get("exitcode", 0) != 0:
        return True
    error = sys.exc_info()[1]
    if error is None and not hasattr(sys, "ps1"):
        error = getattr(sys, "last_value", None)  # the main program: it was printed
    return error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0))
