"""Holds the Lua files together with their headers, the code that calls them, and the keys that they touch."""

from __future__ import annotations

import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from lastcall.state import keys, scripts
from lastcall.state.records import ENDED
from lastcall.state.scripts import Code, Script, script

LUA = Path(scripts.__file__).with_name("lua")
SCRIPTS = sorted(path.stem for path in LUA.glob("[!_]*.lua"))
PARTS = sorted(path.stem for path in LUA.glob("_*.lua"))
ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("producer", "worker", "services/flower") for path in sorted((ROOT / folder).rglob("*.py"))
]
CODES = "|".join(code.name for code in Code)

# What type of value a command works on. Commands that are not here have no business in a script.
TYPES = {
    "HASH": "HDEL HEXISTS HGET HGETALL HINCRBY HKEYS HLEN HMGET HSET HSETNX HVALS",
    "LIST": "LINDEX LLEN LPOP LRANGE RPOP LPUSH LREM LSET LTRIM RPUSH",
    "ZSET": "ZADD ZCARD ZRANGE ZRANGEBYSCORE ZREM ZSCORE",
    "STREAM": "XADD XDEL XREVRANGE XTRIM",
    "": "PERSIST PEXPIRE PUBLISH TIME UNLINK",
}
TYPE_OF = {command: kind for kind, commands in TYPES.items() for command in commands.split()}
READS = {
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HVALS",
    "LINDEX",
    "LLEN",
    "LRANGE",
    "TIME",
    "ZCARD",
    "ZRANGEBYSCORE",
    "ZSCORE",
}
KEY = r"key\([\w +]+, ([A-Z]+|part)\)"
# Scripts of shared things, which are one thing's keys and no chain of queues, name them by their numbers.
OWN_KEY = r"KEYS\[\w+\]"
HEADS = ("_queue", "_shared")  # what scripts begin with: they know the return codes


@cache
def source(name: str) -> str:
    return (LUA / f"{name}.lua").read_text(encoding="utf-8")


@cache
def header(name: str) -> str:
    found = re.match(r"(?:#!lua[^\n]*\n)?--\[\[ (.*?)\]\]", source(name), re.DOTALL)
    assert found, f"{name}.lua does not begin with its header"
    return found[1]


@cache
def code_of(name: str) -> str:
    """A file without its comments."""
    without = re.sub(r"--\[\[.*?\]\]", "", source(name), flags=re.DOTALL)
    return re.sub(r"--(?!@include).*", "", without)


def includes(name: str) -> list[str]:
    return re.findall(r"^--@include (\w+)$", source(name), re.MULTILINE)


def calls(name: str) -> list[tuple[str, str]]:
    """Each redis.call in a file: the command, and its arguments as they are written."""
    found = []
    text = code_of(name)
    for call in re.finditer(r"redis\.p?call\(", text):
        end, depth = call.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        command, _, arguments = text[call.end() : end - 1].partition(",")
        assert re.fullmatch(r"'[A-Z]+'", command), f"the command is not written out: {command}"
        found.append((command.strip("'"), arguments.strip()))
    assert len(found) == text.count("redis.")
    return found


def documented_keys() -> dict[str, str]:
    """Each key that keys.py names: the type that stands beside it."""
    documented: dict[str, str] = {}
    with tokenize.open(keys.__file__) as file:
        for line in file:
            named = re.match(r'(?:    "(\w+)",|([A-Z_]+) = f"\{PREFIX\}\S*")(.*)', line)
            if named:
                comment = re.match(r"  # ([A-Z]+) +\S", named[3])
                documented[named[1] or named[2]] = comment[1] if comment else ""
    return documented


def test_there_is_something_to_check() -> None:
    assert {"next", "put", "reap"} <= set(SCRIPTS)
    assert {"_queue", "_settle"} <= set(PARTS)


@pytest.mark.parametrize("name", SCRIPTS + PARTS)
def test_header_begins_with_the_name_and_says_what_it_does(name: str) -> None:
    assert re.match(rf"{name}: \S", header(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_names_keys_and_arguments(name: str) -> None:
    whole = code_of(name) + "".join(code_of(part) for part in includes(name))
    assert "KEYS" not in whole or "KEYS" in header(name)
    used = set(re.findall(r"ARGV\[(\d+)\]", code_of(name)))
    named = set(re.findall(r"ARGV\[(\d+)(?:\.\.\.)?\]", header(name)))
    assert used <= named
    if "ARGV" in whole:
        assert named
        assert sorted(map(int, named)) == list(range(1, len(named) + 1))


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_names_every_return_code_and_no_other(name: str) -> None:
    _, _, returns = header(name).partition("Returns ")
    named = re.findall(r"\{(-?\d+) ([A-Z]+)", returns)
    assert named, "a script says what it returns"
    assert {text: int(number) for number, text in named} == {text: Code[text] for _, text in named}
    returned = set(re.findall(rf"\b({CODES})\b", code_of(name)))
    assert returned == {text for _, text in named}
    # Nothing is returned but by code: no bare value, but of functions within.
    for value in re.findall(r"^(?:if .* then )?\s*return (?!reply\()(\S+)", code_of(name), re.MULTILINE):
        assert value.startswith("{") or value in (
            "refused", "answered", "tonumber(ms),", "downstream,", "part,", "place",
        )  # fmt: skip


@pytest.mark.parametrize("name", [part for part in PARTS if part not in HEADS])
def test_parts_leave_return_codes_to_the_scripts(name: str) -> None:
    assert not re.search(rf"\b({CODES})\b", code_of(name))
    assert "reply(" not in code_of(name)


def test_lua_and_python_agree_on_the_codes() -> None:
    names, numbers = re.search(r"local (OK, [A-Z, ]+) = ([\d, -]+)", code_of("_queue")).groups()  # type: ignore[union-attr]
    there = dict(zip(names.split(", "), map(int, numbers.split(",")), strict=True))
    assert there == {code.name: code.value for code in Code}
    names, numbers = re.search(r"local (OK, [A-Z, ]+) = ([\d, -]+)", code_of("_shared")).groups()  # type: ignore[union-attr]
    assert {name: there[name] for name in names.split(", ")} == dict(
        zip(names.split(", "), map(int, numbers.split(",")), strict=True)
    )
    everywhere = "".join(code_of(name) for name in SCRIPTS)
    assert all(re.search(rf"\b{code.name}\b", everywhere) for code in Code)


def test_lua_and_python_agree_on_the_keys() -> None:
    lines = re.findall(r"^local ([A-Z, ]+) = ([\d, ]+)$", code_of("_queue"), re.MULTILINE)
    there = {
        name: int(number)
        for names, numbers in lines
        for name, number in zip(names.split(", "), numbers.split(", "), strict=True)
        if name.lower() in keys.PARTS
    }
    assert there == {part.upper(): at for at, part in enumerate(keys.PARTS, 1)}
    count = str(len(keys.PARTS))
    numbered = dict(re.findall(r"KEYS\[(\d)\] (\w+)", header("_shared")))
    assert numbered == {str(at): part for at, part in enumerate(keys.SHARED_PARTS, 1)}
    assert f"#KEYS / {count}" in code_of("_queue")
    assert f"(i - 1) * {count} + part" in code_of("_queue")


def test_every_script_is_called_and_every_call_has_its_script() -> None:
    called = {name for path in SOURCES for name in re.findall(r'\bscript\("(\w+)"\)', path.read_text())}
    assert called == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_includes_exist_once_and_are_used(name: str) -> None:
    parts = includes(name)
    assert len(parts) == len(set(parts))
    for part in parts:
        assert part in PARTS
        defined = re.findall(r"^(?:local |  )function (\w+)", code_of(part), re.MULTILINE)
        others = code_of(name) + "".join(code_of(other) for other in parts if other != part)
        assert any(re.search(rf"\b{function}\(", others) for function in defined), part


def test_every_part_is_included() -> None:
    assert {part for name in SCRIPTS for part in includes(name)} == set(PARTS)
    assert not any(includes(part) for part in PARTS)


@pytest.mark.parametrize("name", SCRIPTS + PARTS)
def test_keys_come_from_the_caller(name: str) -> None:
    for command, rest in calls(name):
        assert command in TYPE_OF, f"{command} is not a command for a script"
        if command == "UNLINK":
            assert re.fullmatch(rf"({KEY}|{OWN_KEY})(, ({KEY}|{OWN_KEY}))*", rest), rest
        elif command != "TIME":
            assert re.match(rf"({KEY}|{OWN_KEY})(,|$)", rest), f"{command} {rest}"
    assert "lastcall" not in code_of(name)


@pytest.mark.parametrize("name", SCRIPTS + PARTS)
def test_commands_fit_the_types_that_are_documented(name: str) -> None:
    documented = documented_keys()
    for command, rest in calls(name):
        part = re.match(KEY, rest)
        if part and part[1] != "part" and TYPE_OF[command]:
            assert documented[part[1].lower()] == TYPE_OF[command], f"{command} {rest}"


def test_every_key_is_documented_with_its_type() -> None:
    documented = documented_keys()
    assert set(keys.PARTS) <= set(documented)
    constants = {
        name for name, value in vars(keys).items()
        if isinstance(value, str) and value.startswith(f"{keys.PREFIX}:")
    }  # fmt: skip
    assert constants <= set(documented)
    assert all(kind in (*TYPES, "STRING") and kind for kind in documented.values()), documented


def test_keys_of_a_job_share_a_slot_and_those_of_two_queues_nothing_else() -> None:
    one, two = keys.queue("j", "one"), keys.queue("j", "two")
    assert all(key.startswith(f"{keys.PREFIX}:{{j}}:") for key in one + two)
    assert set(one) & set(two) == {keys.of_job("j", part) for part in ("room", "job", "events", "failures")}
    assert len(set(one)) == len(one) == len(keys.PARTS)
    assert keys.chain("j", ["one", "two"]) == one + two


# Only these make something longer. The others must go on when the server is full, or it stays full.
GROW = {"aside", "create", "join", "put", "revive", "hold", "arrive", "store", "swap", "edit"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags_say_what_a_full_server_may_refuse(name: str) -> None:
    found = re.match(r"#!lua(?: flags=(\S+))?\n", source(name))
    assert found, "without it a full server refuses some of a script's commands, and not others"
    commands = {command for part in (name, *includes(name)) for command, _ in calls(part)}
    if name in GROW:
        assert found[1] is None
    elif found[1] == "no-writes":
        assert commands <= READS | {"HSET"}  # which is save()'s, in _queue
        assert "reply(" not in code_of(name)
    else:
        assert found[1] == "allow-oom"


def test_script_has_its_includes_and_is_known_by_its_hash() -> None:
    loaded = script("next")
    assert loaded is script("next")
    assert "--@include" not in loaded.source
    assert all(source(part) in loaded.source for part in includes("next"))
    assert re.fullmatch(r"[0-9a-f]{40}", loaded.sha)
    assert Script("put").sha != loaded.sha


def test_states_are_documented() -> None:
    states = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    whole = "".join(code_of(name) for name in SCRIPTS + PARTS)
    fields = set(re.findall(r"\b(?:get|num|set|add)\([\w +]+, '(\w+)'", whole))
    assert len(fields) > 30
    assert {field for field in fields if f"`{field}`" not in states} == set()
    for state in ("NEW", "OPEN", "SEALED", *ENDED):
        assert re.search(rf"^    .*\b{state}\b", states, re.MULTILINE)
        assert f"'{state}'" in whole
    for name in SCRIPTS:
        assert f"`{name}`" in states or name in ("ack", "attend", "status"), name
    # Mermaid ends a transition's label at these.
    for label in re.findall(r"^    \S+ --> \S+ : (.*)", states, re.MULTILINE):
        assert not set(label) & set(":;")
