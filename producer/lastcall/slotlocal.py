"""local: attributes that each slot has for itself, beside threading.local.

from lastcall import local

seen = local()           # of the slot, for all jobs
mine = local(per="job")  # of the slot and the job that it works for
"""

from __future__ import annotations

from typing import Any, Final

from lastcall.byname import ByName, caller
from lastcall.checks import one_of
from lastcall.current import current
from lastcall.place import here

_PER: Final = ("slot", "job")
_MOST_JOBS: Final = 16  # whose attributes a slot keeps: jobs take turns in it
_OWN: Final = frozenset({"_module", "_key", "_arguments", "_per", "_made_by", "_parts"})


class local(ByName):
    """Attributes that are the slot's own.

    per="slot": they stay, for whatever job the slot works, as those of a threading.local in a thread. per="job": a job
    begins without any, and those of a job are gone when the slot has since worked for 16 others.
    A slot is a process of the pools prefork and solo, a thread of `threads`; gevent has as many as greenlets run at
    the same time. A call that it runs while its function waits sees others. Coroutines of a process share theirs: for
    what is a coroutine's own there is contextvars.ContextVar. Outside of workers each thread has its own.

    A subclass may have an __init__, which each slot calls before its first use, with the arguments given here; its
    `per` is said with the class: class State(local, per="job").
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _per = "slot"

    def __init_subclass__(cls, *, per: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if per is not None:
            one_of("per", per, _PER)
            cls._per = per

    def __new__(cls, /, *args: Any, **kwargs: Any) -> local:
        self = super().__new__(cls)
        self._made_by(caller())
        if cls.__init__ is local.__init__:
            object.__setattr__(self, "_arguments", (args, {}))
            return self  # __init__ does the rest
        object.__setattr__(self, "_arguments", (args, kwargs))
        _here(self)  # so that __init__, which comes next, fills those of the slot that makes it, once
        return self

    def __init__(self, *, per: str = "slot") -> None:
        one_of("per", per, _PER)
        if type(self) is local:
            object.__setattr__(self, "_per", per)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        if name == "__dict__":
            return _attributes(self)
        if not name.startswith("__") and not _is_managed(type(self), name):
            attributes = _attributes(self)
            if name in attributes:
                return attributes[name]
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        if _is_managed(type(self), name):
            object.__setattr__(self, name, value)
        else:
            _attributes(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if _is_managed(type(self), name):
            object.__delattr__(self, name)
        elif name in (attributes := _attributes(self)):
            del attributes[name]
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<lastcall.local per {self._per}>"

    def _parts(self) -> tuple[Any, ...]:
        args, kwargs = self._arguments
        if type(self) is local:
            kwargs = {"per": self._per}
        return _make, type(self), args, kwargs


def _make(kind: type[local], args: tuple[Any, ...], kwargs: dict[str, Any]) -> local:
    return kind(*args, **kwargs)


def _here(one: local) -> tuple[dict[str, Any], bool]:
    """The attributes here, and whether they are new."""
    jobs = here().attributes.setdefault(one, {})
    job = _job(one)
    attributes = jobs.pop(job, None)
    new = attributes is None
    jobs[job] = attributes = {} if attributes is None else attributes  # the last used is the last
    if len(jobs) > _MOST_JOBS:
        del jobs[next(iter(jobs))]
    return attributes, new


def _attributes(one: local) -> dict[str, Any]:
    attributes, new = _here(one)
    kind = type(one)
    if new and kind.__init__ is not local.__init__:
        args, kwargs = one._arguments
        try:
            kind.__init__(one, *args, **kwargs)
        except BaseException:
            here().attributes[one].pop(_job(one), None)  # not half made: the next use begins anew
            raise
    return attributes


def _job(one: local) -> str:
    return current.job if one._per == "job" and current else ""


def _is_managed(kind: type, name: str) -> bool:
    """Whether the class decides about this attribute, by a property or the like."""
    return any(hasattr(type(vars(base)[name]), "__set__") for base in kind.__mro__ if name in vars(base))
