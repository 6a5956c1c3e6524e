"""AsyncClient: lastcall for programs with an event loop.

What asks the server for one thing runs the other package's code in a few threads (threads.py), whatever the number of
calls; what waits for something to happen, awaits it on the loop (bells.py). So there is one implementation of leases,
outages and lost replies, pickling does not hold up the loop, and no wait holds a thread. Start at client.py;
queue.py, producer.py, consumer.py, results.py, map.py, flowjob.py (source.py), job.py and calls.py are the awaitable
twins of the modules with those names.
"""

from lastcall.aio.client import AsyncClient
from lastcall.aio.consumer import AsyncConsumer
from lastcall.aio.flowjob import AsyncFlowJob, AsyncFlowResults
from lastcall.aio.job import AsyncJob
from lastcall.aio.lock import AsyncLock
from lastcall.aio.map import AsyncMapResults
from lastcall.aio.producer import AsyncProducer
from lastcall.aio.queue import AsyncQueue
from lastcall.aio.results import AsyncResults

__all__ = [
    "AsyncClient",
    "AsyncConsumer",
    "AsyncFlowJob",
    "AsyncFlowResults",
    "AsyncJob",
    "AsyncLock",
    "AsyncMapResults",
    "AsyncProducer",
    "AsyncQueue",
    "AsyncResults",
]
