"""lastcall: submit work and hold queues. Start at queue.py; the Redis side is state/.

client.py is where programs come in: Client.map (map.py), submit (calls.py), queue (queue.py with producer.py and
consumer.py), job (job.py); pool.py (poolwork.py, asyncresult.py) is multiprocessing's pools on it, executor.py
concurrent.futures' interface; flow.py is where flows begin (steps.py, plan.py, flowjob.py, feeder.py, serial.py). What
they travel in: envelope.py, payload.py, functions.py, outcome.py. What keeps them alive: heart.py, reaper.py,
registry.py, waiting.py. The private cluster: local.py, guardian.py. The commands: cli/.
"""

from lastcall import errors
from lastcall.client import Client
from lastcall.consumer import Consumer
from lastcall.current import current
from lastcall.executor import Executor
from lastcall.flow import Flow, Stage, batch, fan_out, filter, reduce, stage
from lastcall.flowjob import FlowJob
from lastcall.job import Job
from lastcall.letters import DeadLetter
from lastcall.map import Failure
from lastcall.pool import Pool, ThreadPool
from lastcall.producer import Producer
from lastcall.queue import StatusableQueue
from lastcall.settings import Settings
from lastcall.state.ledger import Status
from lastcall.task import task
from lastcall.version import __version__

__all__ = [
    "Client",
    "Consumer",
    "DeadLetter",
    "Executor",
    "Failure",
    "Flow",
    "FlowJob",
    "Job",
    "Pool",
    "Producer",
    "Settings",
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
    "reduce",
    "stage",
    "task",
]
