"""How functions travel: by reference, by value, by registered name; and what a worker refuses."""

import functools
import math
import operator
import os.path
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from lastcall import functions
from lastcall.envelope import Sealer
from lastcall.errors import (
    ConfigError,
    FunctionNotAllowed,
    FunctionNotImportable,
    NotSerializable,
)
from lastcall.functions import dump, load
from lastcall.task import named, names, task
from tests.coroutines import agenerate

KEY = b"sixteen bytes or more"
WORKER = "worker@host"


def add(x: Any, y: Any = 1) -> Any:
    return x + y


class Handle:
    """As one of something that lies elsewhere: its name travels, what it works with does not."""

    def __init__(self, name: str) -> None:
        self.name, self.works_with = name, uuid.uuid4()

    def __reduce__(self) -> tuple[Any, ...]:
        return Handle, (self.name,)

    def use(self) -> str:
        return self.name


class Stated(Handle):
    __reduce__ = object.__reduce__

    def __getstate__(self) -> dict[str, str]:
        return {"name": self.name}


@functools.lru_cache
def cached(x: int) -> int:
    return x


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def apply(self, x: int) -> int:
        return self.factor * x

    def __call__(self, x: int) -> int:
        return self.factor * x

    @classmethod
    def triple(cls, x: int) -> int:
        return 3 * x

    @staticmethod
    def square(x: int) -> int:
        return x * x


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    with patch("lastcall.task._functions", {}), patch("lastcall.task._names", {}):
        yield


def travel(function: Callable[..., Any], key: bytes | None = KEY) -> Callable[..., Any]:
    """As it goes from a client to a worker: through the envelope."""
    spec = dump(function, key is not None)
    return load(Sealer(key).open(Sealer(key).seal(spec.wire)), WORKER, key is not None)


# By reference


@pytest.mark.parametrize(
    ("function", "body"),
    [
        (add, f"{__name__}:add"),
        (cached, f"{__name__}:cached"),
        (Scale.square, f"{__name__}:Scale.square"),
        (Scale, f"{__name__}:Scale"),
        (len, "builtins:len"),
        (int, "builtins:int"),
        (math.sqrt, "math:sqrt"),
        (os.path.join, "posixpath:join"),
    ],
)
def test_an_importable_function_travels_by_reference(function: Callable[..., Any], body: str) -> None:
    spec = dump(function, True)
    assert (spec.kind, spec.body, spec.identity) == ("ref", body, body)
    assert spec.name == body.replace(":", ".")
    assert travel(function) is function


# By value


def test_partials_of_any_depth_travel() -> None:
    inner = functools.partial(add, y=10)
    outer = functools.partial(functools.partial(inner), 5)
    spec = dump(outer, True)
    assert (spec.kind, spec.name) == ("value", f"{__name__}.add")
    assert travel(outer)() == 15


def test_bound_methods_and_callables_travel() -> None:
    assert travel(Scale(4).apply)(2) == 8
    assert travel(Scale(4))(2) == 8
    assert travel(Scale.triple)(2) == 6
    assert travel("abc".upper)() == "ABC"
    assert travel(str.upper)("abc") == "ABC"
    assert travel(operator.itemgetter(1))("abc") == "b"


def test_lambdas_and_closures_travel_by_value() -> None:
    offset = 40

    def shifted(x: int) -> int:
        return x + offset

    assert travel(shifted)(2) == 42
    assert travel(lambda x: 2 * x)(21) == 42
    assert travel(functools.partial(shifted, 2))() == 42


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(functools.partial(add, 1), y=2), f"{__name__}.add"),
        (Scale(4).apply, f"{__name__}.Scale.apply"),
        (Scale(4), f"{__name__}.Scale"),
        (lambda: 1, f"{__name__}.<lambda>"),
        (str.upper, "builtins.str.upper"),
        ("abc".upper, "builtins.str.upper"),
        (operator.itemgetter(1), "operator.itemgetter"),
    ],
)
def test_a_function_by_value_has_a_name_for_people(function: Callable[..., Any], name: str) -> None:
    spec = dump(function, True)
    assert (spec.kind, spec.name) == ("value", name)
    assert spec.identity.startswith(f"{name}#")


def test_a_function_that_was_replaced_in_its_module_travels_by_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = add
    monkeypatch.setattr(sys.modules[__name__], "add", lambda x: "another")
    assert dump(original, True).kind == "value"
    assert travel(original)(2) == 3


# Identity


def _adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def _recursive() -> Callable[[int], int]:
    def count(n: int) -> int:
        return count(n - 1) if n else 0

    return count


@pytest.mark.parametrize(
    "make",
    [
        lambda: _adder(1),
        lambda: functools.partial(add, y={"b", "a"}),
        lambda: functools.partial(add, 1),
        lambda: Scale(4),
        lambda: Scale(4).apply,
        lambda: Handle("a").use,
        lambda: Stated("a").use,
        _recursive,
    ],
)
def test_the_same_function_made_twice_is_the_same(make: Callable[[], Callable[..., Any]]) -> None:
    assert dump(make(), True).identity == dump(make(), True).identity


def test_functions_that_differ_in_anything_they_hold_are_not_the_same() -> None:
    def defaulted(x: int = 1) -> int:
        return x

    first = dump(defaulted, True).identity
    defaulted.__defaults__ = (2,)
    different = [
        first,
        dump(defaulted, True).identity,
        dump(_adder(1), True).identity,
        dump(_adder(2), True).identity,
        dump(_adder(True), True).identity,
        dump(functools.partial(add, 1), True).identity,
        dump(functools.partial(add, "1"), True).identity,
        dump(functools.partial(add, y=1), True).identity,
        dump(functools.partial(add, (1, 2)), True).identity,
        dump(functools.partial(add, [1, 2]), True).identity,
        dump(Scale(4), True).identity,
        dump(Scale(5), True).identity,
        dump(Scale(4).apply, True).identity,
        *(dump(kind(name).use, True).identity for kind in (Handle, Stated) for name in "ab"),
        dump(operator.itemgetter(1), True).identity,
        dump(operator.itemgetter(2), True).identity,
        dump(lambda x: x + 1, True).identity,
        dump(lambda x: x + 2, True).identity,
        dump(lambda x: x.real, True).identity,
        dump(lambda x: x.imag, True).identity,
    ]
    assert len(set(different)) == len(different)


MAIN = """
import functools
from lastcall.functions import dump

class Tool:
    def __init__(self, n):
        self.names = {"a", "b", "c", n}

    def __call__(self, x):
        return x in self.names or x in {"d", "e", "f"}

def use(x, tool=Tool("g")):
    return tool(x)

for function in use, Tool("g"), functools.partial(use, tool=Tool("h")), lambda x: use(x):
    print(dump(function, True).identity)
"""


def test_a_main_modules_function_is_the_same_in_two_runs_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    runs = [
        subprocess.run(
            [sys.executable, tmp_path / "main.py"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout.split()
        for seed in ("1", "2", "3")
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 4


# What cannot be sent


@pytest.mark.parametrize("function", [agenerate, functools.partial(agenerate, 1)])
def test_async_generators_are_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match=r"got the async generator .*: return a list, or yield from a plain"):
        dump(function, True)


@pytest.mark.parametrize("key", [True, False])
def test_what_is_not_callable_is_refused(key: bool) -> None:
    with pytest.raises(ConfigError, match="function must be callable, got a value of type int"):
        dump(3, key)  # type: ignore[arg-type]


def test_a_function_that_holds_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(NotSerializable, match=r"cannot send function .*<lambda>") as caught:
        dump(lambda: lock, True)
    assert caught.value.index is None
    assert "lock" in caught.value.reason


# What a worker cannot import


def test_a_missing_module_is_named_with_the_worker_and_what_to_do() -> None:
    with pytest.raises(FunctionNotImportable) as caught:
        load(("ref", "images.resize", "images.deep:resize"), WORKER, True)
    assert (caught.value.module, caught.value.worker) == ("images", WORKER)
    assert "install it there" in str(caught.value)
    assert "PYTHONPATH" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "module", "hint"),
    [
        ("import missing_library", "missing_library", "half, where the function is, imports it"),
        ("1 / 0", "half", "importing it failed with ZeroDivisionError: division by zero"),
        ("def (", "half", "importing it failed with SyntaxError"),
        ("", "half", "half.py) but has no Tool.run: put the same version"),
        ("class Tool:\n    run = 3", "half:Tool.run", "expected a callable there, got .* type int"),
    ],
)
def test_a_module_that_fails_on_the_worker_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str, hint: str
) -> None:
    (tmp_path / "half.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half", raising=False)
    with pytest.raises(FunctionNotImportable, match=hint.replace(")", r"\)")) as caught:
        load(("ref", "half.Tool.run", "half:Tool.run"), WORKER, True)
    assert (caught.value.module, caught.value.worker) == (module, WORKER)
    sys.modules.pop("half", None)


def test_a_value_that_needs_a_missing_module_names_it() -> None:
    body = pickle.dumps(add).replace(__name__.encode(), b"x" * len(__name__))
    with pytest.raises(FunctionNotImportable, match=r"function a\.b needs it: install") as caught:
        load(("value", "a.b", body), WORKER, True)
    assert caught.value.module == "x" * len(__name__)


def test_a_value_that_cannot_be_rebuilt_says_why() -> None:
    body = pickle.dumps(add).replace(b"add", b"odd")
    with pytest.raises(FunctionNotImportable, match=r"rebuilding it failed with AttributeError.*odd"):
        load(("value", "a.b", body), WORKER, True)
    with pytest.raises(FunctionNotImportable, match=r"expected a callable there, got .* type int"):
        load(("value", "a.b", pickle.dumps(3)), WORKER, True)


@pytest.mark.parametrize("wire", [("odd", "a.b", "a:b"), ("ref", "a.b", b"a:b"), ("value", "a", "")])
def test_a_spec_of_another_version_is_refused(wire: tuple[Any, ...]) -> None:
    with pytest.raises(FunctionNotAllowed, match="same version"):
        load(wire, WORKER, True)


# Without a key


def test_without_a_key_a_task_travels_by_its_name() -> None:
    registered = task(add)
    assert registered is add
    spec = dump(add, False)
    assert (spec.kind, spec.body) == ("task", f"{__name__}:add")
    assert spec.identity == dump(add, True).identity
    assert travel(add, None) is add
    assert dump(add, True).kind == "ref"


def test_a_task_may_have_a_name_of_its_own() -> None:
    task(name="images/add")(add)
    task(name="four")(Scale(4))
    assert dump(add, False).body == "images/add"
    assert dump(add, False).name == f"{__name__}.add"
    assert travel(add, None) is add
    assert names() == ("four", "images/add")
    assert named("images/add") is add


def test_without_a_key_other_functions_are_refused_at_the_client() -> None:
    task(add)
    others: list[Any] = [cached, lambda: 1, functools.partial(add, 1), [].append]
    for function in others:
        with pytest.raises(FunctionNotAllowed, match=r"registered with @task.*LASTCALL_KEY"):
            dump(function, False)


def test_a_worker_without_a_key_imports_and_unpickles_nothing() -> None:
    for function in (add, lambda: 1):
        spec = dump(function, True)
        with (
            patch.object(functions, "importlib") as importing,
            patch.object(functions, "pickle") as unpickling,
            pytest.raises(FunctionNotAllowed, match=f"worker {WORKER} has no key.*LASTCALL_KEY"),
        ):
            load(spec.wire, WORKER, False)
        assert not importing.mock_calls
        assert not unpickling.mock_calls


def test_a_worker_that_lacks_a_task_says_what_it_has() -> None:
    task(add)
    with pytest.raises(FunctionNotImportable, match=f"other.*known: {__name__}:add") as caught:
        load(("task", "a.other", "other"), WORKER, False)
    assert caught.value.worker == WORKER


def test_two_functions_under_one_name_are_refused() -> None:
    task(name="add")(add)
    task(name="add")(add)
    with pytest.raises(ConfigError, match=rf"'add' is {__name__}:add, got {__name__}:cached"):
        task(name="add")(cached)


def test_a_callable_without_a_name_needs_one() -> None:
    with pytest.raises(ConfigError, match="given for a callable that has none"):
        task(Scale(4))
