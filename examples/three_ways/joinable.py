"""Way 2: JoinableQueue, which counts the items that are not done yet.

It is multiprocessing's here, and lastcall's (between machines) where that is imported instead.

Needs: a task_done() for every get(), and consumers that are daemons, for they never learn that
nothing more will come: they wait in get() until the main process ends and kills them.

Hangs:
- with multiprocessing's, where a consumer dies between get() and task_done(): the count never falls
  to 0, join() waits for ever. lastcall's gives the item to another consumer;
- the main process has more to do: the consumers sit in get() for as long as it lives.

Ends too early: join() knows items, not producers. Before the first put, or whenever the consumers
have caught up, it returns at once; hence each producer here calls it after its own last put.

Loses, without a word: what a dead producer had still to make. And a daemon may have no children of
its own, and is killed wherever it stands.
"""

from __future__ import annotations

from multiprocessing import JoinableQueue, Process


def producer(name: str, queue: JoinableQueue[str]) -> None:
    for n in range(5):
        queue.put(f"{name} {n}")
    queue.join()


def consumer(queue: JoinableQueue[str]) -> None:
    while True:
        print(f"ate {queue.get()}\n", end="", flush=True)  # one write: they share a terminal
        queue.task_done()


def main() -> None:
    queue: JoinableQueue[str] = JoinableQueue(20)
    producers = [Process(target=producer, args=(name, queue)) for name in ("bun", "mantou")]
    consumers = [Process(target=consumer, args=(queue,), daemon=True) for _ in range(2)]
    for process in producers + consumers:
        process.start()
    for process in producers:
        process.join()


if __name__ == "__main__":
    main()
