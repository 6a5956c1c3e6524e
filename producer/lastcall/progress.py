"""Progress: queues as bars while they work: on a terminal, in a notebook, and as a line now and then elsewhere.

Looks from a thread of its own, by whatever gives a list of Status: job.status, client.status. Prints to stderr, which
is seen where a program's output goes into a pipe; what the program itself prints meanwhile appears above the bars.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lastcall.checks import bound, seconds
from lastcall.errors import LastcallError
from lastcall.state.records import Status, shown

_BARS_S = 0.2  # between two looks
_NOTEBOOK_S = 0.5  # each is a message to the browser
_LINES_S = 10.0
_WINDOW_S = 10.0  # over which a rate is measured
_LAST_S = 1.0  # how long the last look waits for one that hangs
_BAR = 24  # characters
_STYLES: Final = {"DRAINED": "green", "INCOMPLETE": "red", "CANCELLED": "yellow"}


class Progress:
    """Shows queues until its `with` block ends: what waits, runs, is done and dead, producers, rate, time left.

    statuses: gives the queues, such as job.status, client.status or lambda: [queue.status()]; called in a thread.
    total: items that the first queue will have been given at its end, where that is known before. every_s: between two
    looks (0.2; in a notebook 0.5; where stderr is no terminal, a line every 10 s and one at the end); 0: only when
    update() is called. console: rich's, where stderr is not meant.
    """

    def __init__(
        self, statuses: Callable[[], Sequence[Status]], *,
        total: int | None = None, every_s: float | None = None, console: Console | None = None,
    ) -> None:  # fmt: skip
        if total is not None:
            bound("total", total)
        if every_s:
            seconds("every_s", every_s)
        self._statuses = statuses
        self._total = total
        self._console = console or Console(stderr=True)
        self._view = _view(self._console)
        self._every_s = self._view.every_s if every_s is None else every_s
        self._paces: dict[tuple[str, str], _Pace] = {}
        self._rows: list[_Row] = []
        self._began = time.monotonic()
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        self._ended.clear()
        self._view.start()
        if self._every_s:
            self._thread = threading.Thread(target=self._run, name="lastcall-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_LAST_S)
        if self._thread is None or not self._thread.is_alive():  # else the server is away: what was seen last stays
            self._look()
        self._view.stop(self._rows, time.monotonic() - self._began)

    def update(self) -> None:
        """Look now, and show it."""
        self._look()
        self._view.show(self._rows)

    def _run(self) -> None:
        # A line at once would be of nothing yet; bars show that something is there.
        if not self._view.patient:
            self.update()
        while not self._ended.wait(self._every_s):
            self.update()

    def _look(self) -> None:
        try:
            statuses = self._statuses()
        except (LastcallError, RedisError):  # whoever waits for the work hears of it; here the last look stays
            return
        with self._looking:
            now = time.monotonic()
            self._rows = []
            for at, status in enumerate(statuses):
                pace = self._paces.setdefault((status.job, status.name), _Pace())
                self._rows.append(_Row(status, None if at else self._total, pace.at(now, status)))


class _Pace:
    """How fast a queue's items are finished lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._epoch = 0

    def at(self, now: float, status: Status) -> float:
        """Items a second, 0 where it is not known yet."""
        if status.epoch != self._epoch:
            self._epoch = status.epoch
            self._seen.clear()
        self._seen.append((now, _finished(status)))
        # The oldest look that is kept is the last one beyond the window, so that rare looks are enough.
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        return (_finished(status) - before) / (now - since) if now > since else 0.0


class _Row:
    """One queue as it is shown."""

    def __init__(self, status: Status, promised: int | None, rate: float) -> None:
        self.status, self.rate = status, rate
        self.name = shown(status.job, status.name)
        self.finished = _finished(status)
        if status.state in ("NEW", "OPEN") or status.live:
            self.total = None if promised is None else max(promised, status.put)
        else:
            self.total = status.put
        self.left_s: float | None = None
        if self.total is not None and rate > 0 and not status.ended:
            self.left_s = (self.total - self.finished) / rate

    @property
    def pace(self) -> str:
        return f"{self.rate:,.0f}/s" if self.rate >= 10 else f"{self.rate:.2g}/s"

    def line(self) -> str:
        status = self.status
        parts = [f"{status.done:,} of {status.put if self.total is None else self.total:,} done"]
        for count, what in (
            (status.ready, "waiting"), (status.leased, "running"), (status.delayed, "to be tried again"),
            (status.failed, "failed"), (status.dead, "dead"), (status.cancelled, "cancelled"),
            (status.live, "producer" if status.live == 1 else "producers"),
        ):  # fmt: skip
            if count:
                parts.append(f"{count:,} {what}")
        if not status.ended and self.rate:
            parts.append(self.pace)
        if self.left_s is not None:
            parts.append(f"{_duration(self.left_s)} left")
        return f"{self.name} {status.state}: {', '.join(parts)}"


class _Lines:
    """For a pipe or a file: a line a queue, rarely, and at the end."""

    every_s = _LINES_S
    patient = True

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self) -> None:
        """Nothing is to be said yet."""

    def show(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            # In one write, so that lines of several processes do not mix.
            self._console.file.write(f"{row.line()}\n")
        self._console.file.flush()

    def stop(self, rows: Sequence[_Row], took_s: float) -> None:
        for row in rows:
            self._console.file.write(f"{row.line()}, in {_duration(took_s)}\n")
        self._console.file.flush()


class _Bars:
    """For a terminal: redrawn in place, below what is printed meanwhile."""

    every_s = _BARS_S
    patient = False

    def __init__(self, console: Console) -> None:
        # What is printed goes through the bars' terminal only if it would be seen there: a file gets its own.
        self._live = Live(
            console=console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    def start(self) -> None:
        self._live.start()

    def show(self, rows: Sequence[_Row]) -> None:
        self._live.update(_table(rows), refresh=True)

    def stop(self, rows: Sequence[_Row], took_s: float) -> None:
        self._live.update(_table(rows, took_s))
        self._live.stop()


class _Notebook:
    """For Jupyter: one output of the cell, replaced. Needs no widgets."""

    every_s = _NOTEBOOK_S
    patient = False

    def __init__(self, console: Console) -> None:
        self._handle: Any = None

    def start(self) -> None:
        from IPython.display import display

        # Here, in the cell's own thread, which tells where the output belongs.
        self._handle = display(Text("..."), display_id=True)

    def show(self, rows: Sequence[_Row]) -> None:
        self._handle.update(_table(rows))

    def stop(self, rows: Sequence[_Row], took_s: float) -> None:
        self._handle.update(_table(rows, took_s))


def _view(console: Console) -> _Bars | _Notebook | _Lines:
    if console.is_jupyter:
        return _Notebook(console)
    if console.is_terminal and not console.is_dumb_terminal:
        return _Bars(console)
    return _Lines(console)


def _table(rows: Sequence[_Row], took_s: float | None = None) -> Table:
    """The queues, one a row; a column that would say nothing but 0 is left out."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    # Only these two give way where the terminal is narrow.
    table.add_column("queue", overflow="ellipsis")
    table.add_column("", max_width=_BAR)
    table.add_column("done", justify="right", no_wrap=True)
    counters = [
        (title, name)
        for title, name in (
            ("waiting", "ready"), ("running", "leased"), ("retried", "delayed"), ("failed", "failed"), ("dead", "dead"),
            ("cancelled", "cancelled"), ("producers", "live"),
        )
        if name in ("ready", "leased") or any(getattr(row.status, name) for row in rows)
    ]  # fmt: skip
    for title, _ in counters:
        table.add_column(title, justify="right", no_wrap=True, style="red" if title in ("failed", "dead") else None)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("left" if took_s is None else "", justify="right", no_wrap=True)
    one_job = len({row.status.job for row in rows}) == 1
    for row in rows:
        status = row.status
        of = "" if row.total is None else f"/{row.total:,}"
        bar = ProgressBar(
            total=row.total, completed=row.finished, pulse=row.total is None,
            finished_style="red" if status.dead else "green",
        )  # fmt: skip
        if status.ended:
            bar = ProgressBar(total=1, completed=1, finished_style=_STYLES[status.state])
        last = Text(status.state, _STYLES[status.state]) if status.ended else Text(_left(row))
        table.add_row(
            Text(status.name if one_job else row.name), bar, f"{status.done:,}{of}",
            *(f"{getattr(status, name):,}" for _, name in counters), row.pace, last,
        )  # fmt: skip
    if took_s is not None:
        table.caption, table.caption_justify = f"in {_duration(took_s)}", "left"
    return table


def _left(row: _Row) -> str:
    return "" if row.left_s is None else _duration(row.left_s)


def _finished(status: Status) -> int:
    return status.done + status.dead + status.cancelled


def _duration(s: float) -> str:
    if s < 60:
        return f"{s:.1f} s" if s < 10 else f"{s:.0f} s"
    minutes, rest = divmod(round(s), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
