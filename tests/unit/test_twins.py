"""Whatever blocks has an awaitable twin of its name and arguments, or a reason why it has none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import lastcall
from lastcall import aio
from lastcall.asyncresult import AsyncResult
from lastcall.flowjob import FlowJob
from lastcall.flowresults import FlowResults
from lastcall.history import History, Watch
from lastcall.map import MapResults
from lastcall.results import Results
from lastcall.shared.barrier import Barrier
from lastcall.shared.event import Event
from lastcall.shared.lock import BoundedSemaphore, Lock, RLock, Semaphore
from lastcall.shared.mapping import Dict, Namespace
from lastcall.shared.sequence import List
from lastcall.shared.value import Counter, Value

TWINS: dict[type, type] = {
    lastcall.Client: aio.AsyncClient,
    lastcall.StatusableQueue: aio.AsyncQueue,
    lastcall.Queue: aio.AsyncPlainQueue,
    lastcall.JoinableQueue: aio.AsyncJoinableQueue,
    lastcall.SimpleQueue: aio.AsyncPlainQueue,
    lastcall.Producer: aio.AsyncProducer,
    lastcall.Consumer: aio.AsyncConsumer,
    lastcall.Job: aio.AsyncJob,
    FlowJob: aio.AsyncFlowJob,
    MapResults: aio.AsyncMapResults,
    Results: aio.AsyncResults,
    FlowResults: aio.AsyncFlowResults,
    History: aio.AsyncHistory,
    Watch: aio.AsyncWatch,
    lastcall.Manager: aio.AsyncManager,
    Lock: aio.AsyncLock,
    RLock: aio.AsyncRLock,
    Semaphore: aio.AsyncSemaphore,
    BoundedSemaphore: aio.AsyncSemaphore,
    Event: aio.AsyncEvent,
    Barrier: aio.AsyncBarrier,
    Counter: aio.AsyncCounter,
    Value: aio.AsyncValue,
    Dict: aio.AsyncDict,
    List: aio.AsyncList,
}

WITHOUT: dict[type, str] = {
    lastcall.Pool: "multiprocessing's interface, which blocks: client.submit and client.map are awaited",
    lastcall.ThreadPool: "likewise: client.submit_to('io', ...), client.map(..., workers='io')",
    AsyncResult: "a pool's",
    lastcall.Executor: "loop.run_in_executor(executor, ...) is its awaitable form",
    lastcall.Progress: "shown by a thread; job.progress() is awaited",
    Namespace: "attributes are not awaited: await manager.dict()",
}

# Methods under another name, and those that have none, with the reason.
RENAMED: dict[tuple[type, str], str] = {
    (lastcall.Client, "close"): "aclose",
    (lastcall.Producer, "close"): "aclose",
    (lastcall.Consumer, "close"): "aclose",
    (MapResults, "close"): "aclose",
    (FlowJob, "close"): "aclose",
    (Dict, "__setitem__"): "set",
    (Dict, "__delitem__"): "delete",
    (Dict, "__contains__"): "contains",
    (Dict, "__len__"): "len",
    (List, "__setitem__"): "set",
    (List, "__delitem__"): "delete",
    (List, "__contains__"): "contains",
    (List, "__len__"): "len",
    (Counter, "value"): "get",
    (Value, "value"): "get",
}
LEFT_OUT: dict[tuple[type, str], str] = {
    (lastcall.StatusableQueue, "check_results"): "asks what the handle knows",
    (lastcall.StatusableQueue, "of"): "internal",
    (lastcall.Queue, "of"): "internal",
    (lastcall.JoinableQueue, "of"): "internal",
    (lastcall.Job, "ledgers"): "internal",
    (lastcall.Job, "last"): "internal",
    (lastcall.Client, "settings"): "does not block: `queue.queue` and `await lock.thing()` carry them",
    (MapResults, "failures"): "of `lastcall map`",
    (MapResults, "ledger"): "internal",
    (lastcall.Consumer, "have"): "of hands, which are finished() and get() of queues",
    (History, "there"): "internal",
    (Watch, "on"): "await job.on(...)",
    (lastcall.Manager, "Namespace"): WITHOUT[Namespace],
}
_INTERNAL = {
    lastcall.Producer: {"abandon", "arrived", "broken", "dump", "is_full", "put_dumped", "take_back", "waiting"},
    lastcall.Consumer: {"closed", "has_one", "holds"},
    FlowJob: {"check_ends", "check_fed", "check_readable", "check_reduced", "is_fed", "ledgers", "last"},
    Results: {"close"},
    FlowResults: {"close"},
}
_AT_EXIT = {"join_thread", "cancel_join_thread"}  # of the interpreter: an async put is in the queue when it returns
_SPECIAL = {
    "__enter__": "__aenter__", "__iter__": "__aiter__", "__next__": "__anext__", "__getitem__": "__getitem__",
    "__setitem__": "", "__delitem__": "", "__contains__": "", "__len__": "",
}  # fmt: skip


def public(kind: type) -> Iterator[str]:
    """Names of what a class can be asked, by the library's own classes."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("lastcall")]
    for name in sorted({name for base in own for name in vars(base)}):
        found = inspect.getattr_static(kind, name)
        if (not name.startswith("_") or name in _SPECIAL) and (callable(found) or isinstance(found, property)):
            yield name


METHODS = [(kind, name) for kind in TWINS for name in public(kind)]


def test_each_public_class_that_blocks_is_known() -> None:
    blocking = {
        found for name in lastcall.__all__
        if inspect.isclass(found := getattr(lastcall, name)) and not name.startswith("Async")
        and any(hasattr(found, method) for method in ("close", "shutdown", "join", "wait", "__next__", "__enter__"))
    }  # fmt: skip
    assert blocking <= {*TWINS, *WITHOUT}


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=[f"{kind.__name__}.{name}" for kind, name in METHODS])
def test_each_method_has_a_twin(kind: type, name: str) -> None:
    twin = TWINS[kind]
    if (kind, name) in LEFT_OUT or name in _INTERNAL.get(kind, ()) or (name in _AT_EXIT and hasattr(twin, "put")):
        assert not hasattr(twin, name), f"{twin.__name__}.{name} is there: {kind.__name__}.{name} is no exception"
        return
    other = RENAMED.get((kind, name)) or _SPECIAL.get(name, name)
    assert hasattr(twin, other) or f"self.{other}" in _made_by(twin), f"{kind.__name__}.{name} has no {other}"
    mine, theirs = inspect.getattr_static(kind, name), inspect.getattr_static(twin, other, None)
    if callable(mine) and callable(theirs) and not name.startswith("_"):
        expected, there = _parameters(mine), _parameters(theirs)
        if any(one.kind is one.VAR_KEYWORD for one in there):  # handed on
            assert {one.name for one in there if one.kind is not one.VAR_KEYWORD} <= {one.name for one in expected}
        else:
            assert [(one.name, one.default) for one in there] == [(one.name, one.default) for one in expected]


def _parameters(method: Any) -> list[inspect.Parameter]:
    found = inspect.signature(inspect.unwrap(method)).parameters.values()
    return [one for one in found if one.name not in _INTERNAL_PARAMETERS]


_INTERNAL_PARAMETERS = {"self", "kind", "patient", "failed"}


def _made_by(twin: type) -> str:
    """The source of what makes one, which sets attributes."""
    own = [base for base in twin.__mro__ if base.__module__.startswith("lastcall.aio") and "__init__" in vars(base)]
    return "".join(inspect.getsource(base.__init__) for base in own)  # type: ignore[misc]
