"""What the container files promise each other; that they run is for tests/compose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("producer/Dockerfile", "worker/Dockerfile", "services/flower/Dockerfile")
BEGIN = "# --- the same lines in each of lastcall's images"
END = "# --- until here ---\n"


def text(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def shared(path: str) -> str:
    _, begin, rest = text(path).partition(BEGIN)
    lines, end, _ = rest.partition(END)
    assert (begin != "", end != "") == (True, True), f"expected {path} to have the lines between {BEGIN!r} and {END!r}"
    return lines


def test_all_images_stand_on_the_same_stages() -> None:
    # The census names files by their paths: producers and workers need one and the same standard library.
    first, *others = map(shared, DOCKERFILES)
    assert "FROM python:3.13-slim AS base\n" in first
    assert others == [first] * len(others)


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_runs_as_a_user_on_the_shared_base(path: str) -> None:
    own = text(path).partition(END)[2]
    assert set(re.findall(r"^FROM (\S+)", own, re.MULTILINE)) == {"client", "base"}
    last = own.rpartition("\nFROM base\n")[2]
    assert re.search(r"^USER lastcall$", last, re.MULTILINE)


def test_only_two_public_images_are_named() -> None:
    stages = {"base", "client", "wheel", "installed"}
    named = {name for path in DOCKERFILES for name in re.findall(r"^FROM (\S+)", text(path), re.MULTILINE)}
    assert named - stages == {"python:3.13-slim"}
    assert re.findall(r"^ +image: (\S+)", text("compose.yaml"), re.MULTILINE) == ["redis:8"]


def test_every_port_is_bound_to_this_machine() -> None:
    ports = re.findall(r"^ +ports: (.+)$", text("compose.yaml"), re.MULTILINE)
    assert len(ports) == 2
    assert all(port.startswith('["127.0.0.1:${') and port.count(",") == 0 for port in ports)


def test_redis_is_durable_and_never_drops_a_key() -> None:
    settings = {line for line in text("services/redis/redis.conf").splitlines() if line and line[0] != "#"}
    assert {"appendonly yes", "maxmemory-policy noeviction", "include /run/lastcall/redis.conf"} <= settings
    assert not [line for line in settings if line.startswith("requirepass")]  # it is made, not written here
