"""Way 3: lastcall's StatusableQueue, which counts its live producers, by leases that run out.

It differs from the other two in three places, (1) to (3) below. A counter of producers that each of
them lowers, and consumers that look at it and at the size, would do where nobody dies and nobody is
quicker than another: docs/queues.md has both side by side.

Needs: Redis (or nothing: then a private server starts by itself), and the number of producers, or a
token for each (`queue.producer_token()`), so that the queue does not end before the last one has
come. Nobody has to count the consumers, to join anyone, or to outlive the others; producers and
consumers may be on any machine.

Ends:
- all producers have left and the queue is empty: every consumer's loop ends;
- a producer dies: its lease runs out (LASTCALL_LEASE_S), the consumers get what it had put, then
  ProducerLost says who was lost: not a hang, and not taken for the end;
- a consumer dies: the item that it held goes to another when its lease has run out.

Waits: for a producer that it was told to expect and that never came; a token has a deadline.
"""

from __future__ import annotations

from multiprocessing import Process

from lastcall import StatusableQueue


def producer(name: str, queue: StatusableQueue[str]) -> None:
    for n in range(5):
        queue.put(f"{name} {n}")
    queue.close()  # (1) one live producer less; so does the process's end


def consumer(queue: StatusableQueue[str]) -> None:
    while not queue.finished():  # (2) or: for food in queue
        print(f"ate {queue.get()}\n", end="", flush=True)  # one write: the consumers share a terminal


def main() -> None:
    queue: StatusableQueue[str] = StatusableQueue(20, producers=2)  # (3)
    producers = [Process(target=producer, args=(name, queue)) for name in ("bun", "mantou")]
    consumers = [Process(target=consumer, args=(queue,)) for _ in range(2)]
    for process in producers + consumers:
        process.start()
    for process in consumers:
        process.join()


if __name__ == "__main__":
    main()
