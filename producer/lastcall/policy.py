"""What becomes of an item whose function raises, takes too long, or kills its slot; and how many run at the same time.

Given with a queue or a map, or with the function: @task(retries=3).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from lastcall import celerytask
from lastcall.checks import positive, seconds
from lastcall.errors import ConfigError

MOST_RETRIES: Final = 250  # retries, and crashes: the ledger keeps a byte of each
_MOST_BACKOFF_S: Final = 600.0

RetryOn = type[BaseException] | Iterable[type[BaseException]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One queue's, or one call's. retry_on: names of exception classes; none: whatever is an Exception."""

    retries: int = 0
    backoff_s: float = 1.0
    retry_on: tuple[str, ...] = ()
    timeout_s: float = 0.0  # 0 for none
    crash_limit: int = 3
    concurrency: int = 0  # of coroutines, in a slot; 0 where it is not said

    @classmethod
    def stored(cls, meta: Mapping[str, bytes]) -> Policy:
        """As the ledger keeps it."""
        return cls(
            int(meta["retries"]), int(meta["backoff"]) / 1000, tuple(meta["retry_on"].decode().split()),
            int(meta["timeout"]) / 1000, int(meta["crash_limit"]), int(meta.get("concurrency", b"0")),
        )  # fmt: skip

    def retries_after(self, error: BaseException, raises: int) -> bool:
        """Whether an item that had raised `raises` times before is tried again now that it raised this."""
        if raises >= self.retries:
            return False
        if not self.retry_on:
            return isinstance(error, Exception)
        return any(class_name(kind) in self.retry_on for kind in type(error).__mro__)

    def delay_ms(self, raises: int) -> int:
        """How long to wait before an item that had raised `raises` times before is tried again.

        Doubles each time, up to ten minutes; the half of it is random, so that items which failed together do not come
        back together (the "equal jitter" of: Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015).
        """
        most = min(self.backoff_s * 2.0 ** min(raises, 60), _MOST_BACKOFF_S)
        return int(1000 * most * random.uniform(0.5, 1.0))

    @property
    def wire(self) -> tuple[Any, ...]:
        """Plain data, from which Policy(*wire) makes it again."""
        return self.retries, self.backoff_s, self.retry_on, self.timeout_s, self.crash_limit, self.concurrency


@dataclass(frozen=True, slots=True)
class Told:
    """The options of a policy as they were given, checked. None: not said."""

    retries: int | None = None
    backoff_s: float | None = None
    retry_on: tuple[str, ...] | None = None
    timeout_s: float | None = None
    crash_limit: int | None = None
    concurrency: int | None = None

    def over(self, other: Told) -> Told:
        """What is said here, and where nothing is, what the other says."""
        if other == Told():  # as most functions
            return self
        mine, others = asdict(self), asdict(other)
        return Told(**{name: others[name] if value is None else value for name, value in mine.items()})

    @property
    def said(self) -> tuple[str, ...]:
        """The options that were given."""
        return tuple(name for name, value in asdict(self).items() if value is not None)

    @property
    def policy(self) -> Policy:
        return Policy(**{name: value for name, value in asdict(self).items() if value is not None})

    @property
    def stored(self) -> dict[str, Any]:
        """Fields of the ledger's Spec."""
        return {
            "retries": self.retries,
            "backoff_ms": None if self.backoff_s is None else int(self.backoff_s * 1000),
            "retry_on": None if self.retry_on is None else " ".join(self.retry_on),
            "timeout_ms": None if self.timeout_s is None else max(1, int(self.timeout_s * 1000)),
            "crash_limit": self.crash_limit,
            "concurrency": self.concurrency,
        }


def told(
    *, retries: int | None = None, backoff_s: float | None = None, retry_on: RetryOn | None = None,
    timeout: float | None = None, crash_limit: int | None = None, concurrency: int | None = None,
    timeout_name: str = "timeout",
) -> Told:  # fmt: skip
    """Check a policy's options. timeout_name: how the caller calls that one. Raises ConfigError."""
    numbers: tuple[tuple[str, object, int], ...] = (("retries", retries, 0), ("crash_limit", crash_limit, 1))
    for name, value, least in numbers:
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_RETRIES
        ):
            raise ConfigError(name, f"an int from {least} to {MOST_RETRIES}", repr(value))
    for name, duration in (("backoff_s", backoff_s), (timeout_name, timeout)):
        if duration is not None:
            seconds(name, duration)
    if concurrency is not None:
        positive("concurrency", concurrency)
    return Told(retries, backoff_s, None if retry_on is None else _names(retry_on), timeout, crash_limit, concurrency)


def class_name(kind: type) -> str:
    """How an exception class is named where it is not at hand; one that travels by value loses where it is nested."""
    return f"{kind.__module__}.{kind.__name__}"


def remember(function: Callable[..., Any], options: Told) -> None:
    """Keep what @task said of a function."""
    _told[function] = options


def told_of(function: Any) -> Told:
    """What @task said of a function, through partials and bound methods; of a Celery task, its time limit."""
    task = celerytask.task_of(function)
    if task is not None:  # it says by itself what is tried again, and when
        return told(timeout=celerytask.timeout_s(task))
    while function is not None:
        try:
            found = _told.get(function)
        except TypeError:  # it cannot be hashed
            found = None
        if found is not None:
            return found
        function = getattr(function, "func", None) or getattr(function, "__func__", None)
    return Told()


def _names(retry_on: RetryOn) -> tuple[str, ...]:
    kinds: Any = (retry_on,) if isinstance(retry_on, type) else retry_on
    expected = "an exception class, or several in a tuple"
    given: object = retry_on
    if isinstance(given, str) or not isinstance(kinds, Iterable):
        raise ConfigError("retry_on", expected, repr(retry_on))
    names = []
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ConfigError("retry_on", expected, repr(kind))
        names.append(class_name(kind))
    if not names:
        raise ConfigError("retry_on", expected, "none", "leave it out to retry on every Exception")
    return tuple(sorted(names))


_told: dict[Callable[..., Any], Told] = {}
