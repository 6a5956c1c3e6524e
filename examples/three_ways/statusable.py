"""Way 3: a StatusableQueue, which counts its live producers, by leases that run out.

Needs: Redis (or nothing: then a private server starts by itself), and the number of producers, or a
token for each (`queue.producer_token()`), so that the queue does not end before the last one has
come. Nobody has to count the consumers, to join anyone, or to outlive the others; producers and
consumers may be on any machine.

Ends:
- all producers have left and the queue is empty: every consumer's loop ends;
- a producer dies: its lease runs out (LASTCALL_LEASE_S), the consumers get what it had put, then
  ProducerLost says who was lost: not a hang, and not taken for the end;
- a consumer dies: the items that it held go to the others when its lease has run out.

Waits: for a producer that it was told to expect and that never came; a token has a deadline.
"""

from __future__ import annotations

from multiprocessing import Process

from lastcall import Client, StatusableQueue


def producer(name: str, queue: StatusableQueue[str]) -> None:
    with queue.producer(name) as out:
        for n in range(5):
            out.put(f"{name} {n}")


def consumer(queue: StatusableQueue[str]) -> None:
    for food in queue:
        print(f"ate {food}\n", end="", flush=True)  # one write: the consumers share a terminal


def main() -> None:
    with Client() as client:
        queue: StatusableQueue[str] = client.queue("three-ways", producers=2, maxsize=20, reopen=True)
        producers = [Process(target=producer, args=(name, queue)) for name in ("bun", "mantou")]
        consumers = [Process(target=consumer, args=(queue,)) for _ in range(2)]
        for process in producers + consumers:
            process.start()
        for process in consumers:
            process.join()


if __name__ == "__main__":
    main()
