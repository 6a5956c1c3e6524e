"""Way 1: a None for each consumer.

The queue is multiprocessing's here, and lastcall's (between machines) where that is imported instead.

Needs: someone who knows how many consumers there are, sees every producer end, and then puts that
many Nones. Here it is the main process, so the producers have to be its children: one machine.

Hangs, with multiprocessing's:
- the one who puts the Nones dies first: all consumers wait for ever. Where each producer puts its
  own (nobody can join a producer on another machine), one that dies leaves them hanging likewise;
- a None too few (a consumer more than was thought): one consumer waits for ever;
- a consumer is killed while it waits in get(): it keeps the queue's lock: the others hang.

Loses, without a word: what a dead producer had still to make (its join() returns as if it had
finished), and the item that a killed consumer held.

With lastcall's, consumers end by ShutDown when the queue's maker and all producers are dead, a killed
consumer keeps no lock, and its item goes to another. A None too few, and what a dead producer had
still to make, are as before.
"""

from __future__ import annotations

from multiprocessing import Process, Queue


def producer(name: str, queue: Queue[str | None]) -> None:
    for n in range(5):
        queue.put(f"{name} {n}")


def consumer(queue: Queue[str | None]) -> None:
    while (food := queue.get()) is not None:
        print(f"ate {food}\n", end="", flush=True)  # one write: the consumers share a terminal


def main() -> None:
    queue: Queue[str | None] = Queue(20)
    producers = [Process(target=producer, args=(name, queue)) for name in ("bun", "mantou")]
    consumers = [Process(target=consumer, args=(queue,)) for _ in range(2)]
    for process in producers + consumers:
        process.start()
    for process in producers:
        process.join()
    for _ in consumers:
        queue.put(None)
    for process in consumers:
        process.join()


if __name__ == "__main__":
    main()
