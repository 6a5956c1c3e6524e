"""Whether this process ends by an exception: who put into a queue and then failed was lost, and did not leave.

multiprocessing's children end in order all the same, and from Python 3.13 on nothing is left of the exception by then.
So it is noted where it comes out of the process's run().
"""

from __future__ import annotations

import sys
from multiprocessing.process import current_process
from multiprocessing.util import register_after_fork
from typing import Any


class _Note:
    """What became of run(), in a child."""

    failed = False


_note = _Note()


def fails() -> bool:
    """Asked at the end of the process."""
    if _note.failed:
        return True
    error = sys.exc_info()[1]  # a child that has imported this late; it is on its way, before Python 3.13
    if error is None and not hasattr(sys, "ps1"):
        error = getattr(sys, "last_value", None)  # the main program: it was printed
    return error is not None and _is_failure(error)


def _is_failure(error: BaseException) -> bool:
    return not (isinstance(error, SystemExit) and error.code in (None, 0))


def _watch(note: _Note) -> None:
    process: Any = current_process()
    run = process.run
    note.failed = False

    def watched() -> None:
        try:
            run()
        except BaseException as error:
            note.failed = _is_failure(error)
            raise

    process.run = watched


register_after_fork(_note, _watch)  # in each child, before its run()
