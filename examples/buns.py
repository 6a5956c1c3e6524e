"""Two producers, two consumers, and nobody has to say when to stop.

fioman steams buns, jingjing steams mantou; mengmeng and xiaoxiao eat whatever is on the table. The
cooks stop when they have made enough. The eaters end by themselves: the queue knows that no cook is
left and nothing is on the table.

    python examples/buns.py
"""

from __future__ import annotations

import random
import sys
import time
from multiprocessing import Process

from lastcall import Client, StatusableQueue

FOODS_EACH = 10


def say(line: str) -> None:
    # One write a line: four processes share the terminal.
    print(f"{line}\n", end="", flush=True)


def producer(name: str, food: str, queue: StatusableQueue[str]) -> None:
    with queue.producer(name) as out:  # one live producer more; after the block, one less
        for n in range(FOODS_EACH):
            time.sleep(random.random() / 8)
            say(f"{name} made {food} {n}")
            out.put(f"{food} {n}")
    say(f"{name} has finished")


def consumer(name: str, queue: StatusableQueue[str]) -> None:
    for food in queue:  # ends when no producer is left and the queue is empty
        say(f"\t\t\t{name} ate {food}")
        time.sleep(random.random() / 8)
    say(f"\t\t\t{name} has left")


def main() -> int:
    with Client() as client:  # LASTCALL_URL, or a private server on this machine
        queue: StatusableQueue[str] = client.queue("buns", producers=2, maxsize=20, reopen=True)
        cooks = [
            Process(target=producer, args=("fioman", "steamed bun", queue)),
            Process(target=producer, args=("jingjing", "mantou", queue)),
        ]
        eaters = [
            Process(target=consumer, args=("mengmeng", queue)),
            Process(target=consumer, args=("xiaoxiao", queue)),
        ]
        for process in cooks + eaters:
            process.start()
        for process in eaters:
            process.join()  # the eaters are done: then the cooks are, and everything is eaten
        for process in cooks:
            process.join()  # they have left the queue, and end in a moment
    failed = any(process.exitcode != 0 for process in cooks + eaters)
    say("something went wrong" if failed else "everything is eaten")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
