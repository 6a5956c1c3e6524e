"""lastcall: submit work and hold queues. Start at queue.py; the Redis side is state/.

client.py is where programs come in: Client.map (map.py), submit (calls.py), queue (queue.py with producer.py and
consumer.py), run (flow.py, steps.py, plan.py, flowjob.py, feeder.py, serial.py), job (job.py, history.py,
progress.py). aio/ has awaitable twins. On it stand multiprocessing's pools (pool.py, poolwork.py, asyncresult.py) and
queues (queues.py, putget.py, hands.py, directproducer.py), concurrent.futures' interface (executor.py) and joblib's
backend (joblib.py); what pools and executors ask of processes: starter.py. Celery's tasks are functions by
celerytask.py; URLs are told of ends by notify.py. What functions keep and share: resource.py, slotlocal.py (place.py),
shared/. What they travel in: envelope.py, payload.py, functions.py, mainspace.py, outcome.py, and beside it parcel.py
and aside.py. What keeps them alive: heart.py, reaper.py, registry.py. How they wait: waiting.py, announced.py. The
private cluster: private.py, guardian.py, defaultclient.py. The commands: cli/.
"""

from lastcall import errors
from lastcall.aio import (
    AsyncClient,
    AsyncConsumer,
    AsyncFlowJob,
    AsyncJob,
    AsyncJoinableQueue,
    AsyncLock,
    AsyncManager,
    AsyncMapResults,
    AsyncPlainQueue,
    AsyncProducer,
    AsyncQueue,
    AsyncResults,
)
from lastcall.client import Client
from lastcall.consumer import Consumer
from lastcall.current import current
from lastcall.executor import Executor
from lastcall.flow import Flow, Stage, batch, fan_out, filter, reduce, stage
from lastcall.flowjob import FlowJob
from lastcall.history import Event
from lastcall.job import Job
from lastcall.letters import DeadLetter
from lastcall.map import Failure
from lastcall.notify import secret as notification_secret
from lastcall.notify import verify_notification
from lastcall.pool import Pool, ThreadPool
from lastcall.producer import Producer
from lastcall.progress import Progress
from lastcall.queue import StatusableQueue
from lastcall.queues import JoinableQueue, Queue, SimpleQueue
from lastcall.resource import resource
from lastcall.settings import Settings
from lastcall.shared.manager import Manager
from lastcall.slotlocal import local
from lastcall.state.records import Status
from lastcall.task import task
from lastcall.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncConsumer",
    "AsyncFlowJob",
    "AsyncJob",
    "AsyncJoinableQueue",
    "AsyncLock",
    "AsyncManager",
    "AsyncMapResults",
    "AsyncPlainQueue",
    "AsyncProducer",
    "AsyncQueue",
    "AsyncResults",
    "Client",
    "Consumer",
    "DeadLetter",
    "Event",
    "Executor",
    "Failure",
    "Flow",
    "FlowJob",
    "Job",
    "JoinableQueue",
    "Manager",
    "Pool",
    "Producer",
    "Progress",
    "Queue",
    "Settings",
    "SimpleQueue",
    "Stage",
    "Status",
    "StatusableQueue",
    "ThreadPool",
    "__version__",
    "batch",
    "current",
    "errors",
    "fan_out",
    "filter",
    "local",
    "notification_secret",
    "reduce",
    "resource",
    "stage",
    "task",
    "verify_notification",
]
