"""One flow in each of its modes, measured, and drawn from what ran: `python examples/modes.py [FOLDER [ROUNDS]]`.

A backup: each file is fetched (as from a store that takes its time to answer), squeezed and sealed. The fetching waits
on threads, four at a time, the rest works on processes. Of several rounds the fastest are drawn. The pictures of
docs/modes.md are made by this, with 5 rounds.
"""

import hashlib
import lzma
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lastcall import Client, Event, Flow, gantt

FILES = sorted(Path(os.__file__).parent.glob("*.py"), key=lambda path: (-path.stat().st_size, path.name))[10:34]
MODES = ("horizontal", "vertical", "streaming", "auto")


def fetch(path: str) -> bytes:
    time.sleep(0.04)  # until the store answers
    return Path(path).read_bytes()


def squeeze(data: bytes) -> bytes:
    return lzma.compress(data, preset=9)


def seal(data: bytes) -> str:
    return hashlib.pbkdf2_hmac("sha256", data, b"salt", 30_000).hex()


BACKUP = Flow(fetch, workers="io", max_workers=4) | squeeze | seal


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="modes-"))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in FILES]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    expected, events = serially(paths)
    for _ in range(rounds - 1):
        events = min(events, serially(paths)[1], key=took_s)
    show(folder, "serial", events, ["fetch", "squeeze", "seal"])
    with Client() as client:
        list(client.run(BACKUP, paths[:4], mode="streaming").results())  # workers are there now
        for mode in MODES:
            fastest: list[Event] = []
            for number in range(rounds):
                name = f"{mode}-{number}-{time.time_ns()}"
                assert list(client.run(BACKUP, paths, mode=mode, job=name).results()) == expected, (
                    "the same in every mode"
                )
                events = list(client.job(name).history.events("done"))
                fastest = min(fastest or events, events, key=took_s)
            show(folder, mode, fastest, [status.name for status in client.job(name).status()])
    print(f"drawn in {folder}")


def serially(paths: list[str]) -> tuple[list[str], list[Event]]:
    """Here, one after the other; what a slot would have noted is noted by hand."""
    events: list[Event] = []

    def timed(function: Callable[[Any], Any], value: Any) -> Any:
        began = time.time()
        gave = function(value)
        ended = time.time()
        events.append(
            Event("done", "serial", function.__name__, f"1-{len(events) + 1}", int(ended * 1000),
                  runtime_s=ended - began, ended_ms=ended * 1000, worker="here", slot=str(os.getpid()))
        )  # fmt: skip
        return gave

    return [timed(seal, timed(squeeze, timed(fetch, path))) for path in paths], events


def took_s(events: list[Event]) -> float:
    return (max(event.ended_ms for event in events) - min(event.began_ms for event in events)) / 1000


def show(folder: Path, mode: str, events: list[Event], stages: list[str]) -> None:
    gantt.save(events, folder / f"{mode}.svg", title=f"{mode}: {took_s(events):.2f} s", stages=stages)
    print(f"{mode:10} {took_s(events):.2f} s")


if __name__ == "__main__":
    main()
