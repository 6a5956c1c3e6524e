"""AsyncClient: lastcall for programs with an event loop.

What asks the server for one thing runs the other package's code in a few threads (threads.py), whatever the number of
calls; what waits for something to happen, awaits it on the loop (bells.py). So there is one implementation of leases,
outages and lost replies, pickling does not hold up the loop, and no wait holds a thread. Start at client.py;
queue.py, producer.py, consumer.py, results.py, map.py, flowjob.py (source.py), job.py, history.py, calls.py and
announced.py are the awaitable twins of the modules with those names; putget.py, hands.py and queues.py, too, which have
queue.Queue's methods; lock.py, event.py, barrier.py, value.py, mapping.py, sequence.py, named.py and manager.py those
of modules in shared/ (thing.py). misuse.py has what is said where they are not awaited.
"""

from lastcall.aio.barrier import AsyncBarrier
from lastcall.aio.client import AsyncClient
from lastcall.aio.consumer import AsyncConsumer
from lastcall.aio.event import AsyncEvent
from lastcall.aio.flowjob import AsyncFlowJob, AsyncFlowResults
from lastcall.aio.history import AsyncHistory, AsyncWatch
from lastcall.aio.job import AsyncJob
from lastcall.aio.lock import AsyncLock, AsyncRLock, AsyncSemaphore
from lastcall.aio.manager import AsyncManager
from lastcall.aio.map import AsyncMapResults
from lastcall.aio.mapping import AsyncDict
from lastcall.aio.producer import AsyncProducer
from lastcall.aio.queue import AsyncQueue
from lastcall.aio.queues import AsyncJoinableQueue, AsyncPlainQueue
from lastcall.aio.results import AsyncResults
from lastcall.aio.sequence import AsyncList
from lastcall.aio.value import AsyncCounter, AsyncValue

__all__ = [
    "AsyncBarrier",
    "AsyncClient",
    "AsyncConsumer",
    "AsyncCounter",
    "AsyncDict",
    "AsyncEvent",
    "AsyncFlowJob",
    "AsyncFlowResults",
    "AsyncHistory",
    "AsyncJob",
    "AsyncJoinableQueue",
    "AsyncList",
    "AsyncLock",
    "AsyncManager",
    "AsyncMapResults",
    "AsyncPlainQueue",
    "AsyncProducer",
    "AsyncQueue",
    "AsyncRLock",
    "AsyncResults",
    "AsyncSemaphore",
    "AsyncValue",
    "AsyncWatch",
]
