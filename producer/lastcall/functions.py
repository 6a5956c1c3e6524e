"""How functions travel: by reference, by value, or by the name that @task gave them.

dump() is the client's side, load() the worker's. What goes on the wire is FunctionSpec.wire, a
plain tuple, in an envelope.
"""

import functools
import importlib
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lastcall import celerytask
from lastcall.coroutine import check_function
from lastcall.envelope import dump_pickle
from lastcall.errors import (
    ConfigError,
    FunctionNotAllowed,
    FunctionNotImportable,
    NotSerializable,
)
from lastcall.fingerprint import fingerprint
from lastcall.mainspace import MAIN
from lastcall.task import name_of, named, names

Function = Callable[..., Any]

_INSTALL = "install it there, or put its folder on the worker's PYTHONPATH"


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function as it travels.

    kind: "ref" (body "module:qualname"), "task" (body: the registered name), "celery" (body: a Celery task's
    "module:name"; of a partial, a pickle of that and its arguments), "value" (body: a pickle). name: for people,
    "module.qualname". identity: equal if it is the same function.
    """

    kind: Literal["ref", "task", "celery", "value"]
    name: str
    body: str | bytes
    identity: str

    @property
    def wire(self) -> tuple[str, str, str | bytes]:
        """Plain data for the envelope; load() takes it."""
        return self.kind, self.name, self.body


def dump(function: Function, sealer_has_key: bool) -> FunctionSpec:
    """Find the way in which a function can travel.

    sealer_has_key: without a key only functions registered with @task, and Celery tasks, are taken.
    Raises ConfigError (not callable), FunctionNotAllowed, NotSerializable.
    """
    if not callable(function):
        raise ConfigError("function", "callable", f"a value of type {type(function).__name__}")
    check_function(function)
    task = celerytask.task_of(function)
    if task is not None:
        celerytask.check(task)
        return _dump_celery(function, task, sealer_has_key)
    name = display_name(function)
    if not sealer_has_key:
        registered = name_of(function)
        if registered is None:
            raise FunctionNotAllowed(
                name,
                "without a key only functions registered with @task can be sent: decorate it and "
                "have the worker import its module, or set LASTCALL_KEY on both sides",
            )
        return FunctionSpec("task", name, registered, reference_of(function) or registered)
    reference = reference_of(function)
    if reference is not None:
        return FunctionSpec("ref", name, reference, reference)
    try:
        body = dump_pickle(function)
    except NotSerializable as error:
        raise NotSerializable(f"function {name}", None, error.type_name, error.reason) from error
    return FunctionSpec("value", name, body, f"{name}#{fingerprint(function)}")


def _dump_celery(function: Function, task: Any, sealer_has_key: bool) -> FunctionSpec:
    # Of its class: a proxy of a task has a module of its own.
    reference, identity = f"{task.__class__.__module__}:{task.name}", f"celery:{task.name}"
    _, args, kwargs = celerytask.unbound(function)
    if not args and not kwargs:
        return FunctionSpec("celery", task.name, reference, identity)
    if not sealer_has_key:
        raise FunctionNotAllowed(
            task.name,
            "a partial's arguments are pickled, which needs a key: set LASTCALL_KEY on both sides, or give the task "
            "itself, and the arguments with each item",
        )
    try:
        body = dump_pickle((reference, args, kwargs))
    except NotSerializable as error:
        raise NotSerializable(f"arguments of {task.name}", None, error.type_name, error.reason) from error
    return FunctionSpec("celery", task.name, body, f"{identity}#{fingerprint((args, kwargs))}")


def load(wire: Sequence[Any], worker: str, sealer_has_key: bool) -> Function:
    """Give the function back that a spec's `wire` stands for.

    wire: out of an envelope that was verified. worker: this worker's name, for messages.
    sealer_has_key: whether that envelope was signed; if not, nothing is imported or unpickled.
    Raises FunctionNotImportable, FunctionNotAllowed.
    """
    kind, name, body = wire
    if kind == "task" and isinstance(body, str):
        return _load_task(body, worker)
    if kind == celerytask.KIND:
        raise FunctionNotAllowed(str(name), "a Celery task is run as items, calls and maps are, nowhere else")
    if not sealer_has_key:
        raise FunctionNotAllowed(
            str(name),
            f"worker {worker} has no key and takes only functions registered with @task, got one "
            f"by {'reference' if kind == 'ref' else 'value'}: set LASTCALL_KEY on both sides",
        )
    if kind == "ref" and isinstance(body, str):
        return _load_reference(body, worker)
    if kind == "value" and isinstance(body, bytes):
        return _load_value(body, str(name), worker)
    raise FunctionNotAllowed(
        str(name),
        f'expected the kind "ref", "task" or "value", got {kind!r}: run the same version of '
        f"lastcall on worker {worker} and at the client",
    )


def _load_task(name: str, worker: str) -> Function:
    function = named(name)
    if function is None:
        known = ", ".join(names()) or "none"
        raise FunctionNotImportable(
            name,
            worker,
            "no function is registered there under that name: start it with `lastcall worker -I MODULE`, the module "
            "that holds its @task (not __main__, which is another program there), or set LASTCALL_KEY on both sides "
            f"(known: {known})",
        )
    return function


def _load_reference(reference: str, worker: str) -> Function:
    module_name, _, qualname = reference.partition(":")
    module = import_module(module_name, worker)
    function = module
    try:
        for part in qualname.split("."):
            function = getattr(function, part)
    except AttributeError as error:
        raise FunctionNotImportable(
            module_name,
            worker,
            f"it is there ({getattr(module, '__file__', None) or 'built in'}) but has no "
            f"{qualname}: put the same version of it on the worker, and restart the worker",
        ) from error
    return _checked(function, reference, worker)


def _load_value(body: bytes, name: str, worker: str) -> Function:
    return _checked(unpickle(body, name, worker), name, worker)


def unpickle(body: bytes, name: str, worker: str) -> Any:
    """What a function of this name brings along, out of an envelope that was signed. Raises FunctionNotImportable."""
    try:
        return pickle.loads(body)
    except ModuleNotFoundError as error:
        raise FunctionNotImportable(error.name or name, worker, f"function {name} needs it: {_INSTALL}") from error
    except Exception as error:  # unpickling imports the user's modules, which may raise anything
        raise FunctionNotImportable(
            name,
            worker,
            f"rebuilding it failed with {type(error).__name__}: {error}: put the same versions of "
            "Python and of its modules on the worker as at the client",
        ) from error


def import_module(name: str, worker: str) -> Any:
    """A module, on a worker of this name. Raises FunctionNotImportable."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        # Of a.b.c it may be a that is missing; anything else is what one of them imports.
        if name == missing or name.startswith(f"{missing}."):
            raise FunctionNotImportable(missing, worker, _INSTALL) from error
        raise FunctionNotImportable(
            missing, worker, f"{name}, where the function is, imports it: {_INSTALL}"
        ) from error
    except Exception as error:  # a module's own code may raise anything
        raise FunctionNotImportable(
            name,
            worker,
            f"importing it failed with {type(error).__name__}: {error}: mend it there, and restart the worker",
        ) from error


def _checked(function: object, name: str, worker: str) -> Function:
    if callable(function):
        return function
    raise FunctionNotImportable(
        name, worker, f"expected a callable there, got a value of type {type(function).__name__}"
    )


def reference_of(function: object) -> str | None:
    """ "module:qualname" if importing that gives this very object in another process too."""
    module_name = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(qualname, str) or module_name in MAIN:
        return None
    try:
        found: Any = sys.modules.get(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except AttributeError:  # a lambda, something local, or replaced by a decorator
        return None
    return f"{module_name}:{qualname}" if found is function else None


def display_name(function: Function) -> str:
    """A function's name for people, "module.qualname"; of a partial, that of what it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    shown: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(shown, "__module__", None)
    if module is None:  # a method of a built-in type
        owner = getattr(shown, "__objclass__", None) or type(getattr(shown, "__self__", None))
        module = owner.__module__
    return f"{module}.{shown.__qualname__}"
