"""lastcall: submit work and hold queues. Start at queue.py; the Redis side is state/.

client.py is where programs come in: Client.map (map.py), submit (calls.py), queue (queue.py with producer.py and
consumer.py), job (job.py); pool.py (poolwork.py, asyncresult.py) is multiprocessing's pools on it, queues.py
(putget.py, hands.py, directproducer.py) its queues, executor.py concurrent.futures' interface. What they travel in:
envelope.py, payload.py, functions.py, outcome.py. What keeps them alive: heart.py, reaper.py, registry.py, waiting.py.
The private cluster: local.py, guardian.py. The commands: cli/.
"""

from lastcall import errors
from lastcall.client import Client
from lastcall.consumer import Consumer
from lastcall.current import current
from lastcall.executor import Executor
from lastcall.job import Job
from lastcall.letters import DeadLetter
from lastcall.pool import Pool, ThreadPool
from lastcall.producer import Producer
from lastcall.queue import StatusableQueue
from lastcall.queues import JoinableQueue, Queue
from lastcall.settings import Settings
from lastcall.state.ledger import Status
from lastcall.task import task
from lastcall.version import __version__

__all__ = [
    "Client",
    "Consumer",
    "DeadLetter",
    "Executor",
    "Job",
    "JoinableQueue",
    "Pool",
    "Producer",
    "Queue",
    "Settings",
    "Status",
    "StatusableQueue",
    "ThreadPool",
    "__version__",
    "current",
    "errors",
    "task",
]
