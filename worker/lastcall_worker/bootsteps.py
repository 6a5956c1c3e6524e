"""What lastcall adds to a Celery worker: its threads, started and stopped with the worker.

Warm shutdown goes: close (the worker takes no more tickets), stop (the pool finishes what it runs,
whose tickets are still renewed), then the signal worker_shutdown, when all is over.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from celery import bootsteps, signals

from lastcall import notify
from lastcall_worker.node import Node, end_worker, pool_name
from lastcall_worker.reaper import Reaper
from lastcall_worker.until_drained import Exit, UntilDrained
from lastcall_worker.watch import Watch

_CHILDREN_S: Final = 0.1
_FULL_S: Final = 0.05
_IDLE_S: Final = 0.5
_GIVE_BACK_S: Final = 2.0


class ReaperStep(bootsteps.StartStopStep):
    """Looks for what fell silent, in turn with the other workers."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.lastcall_reaper = None

    def start(self, worker: Any) -> None:
        worker.lastcall_reaper = Reaper(worker.app.lastcall_settings, str(worker.hostname))
        worker.lastcall_reaper.start()

    def stop(self, worker: Any) -> None:
        worker.lastcall_reaper.stop()

    terminate = stop


class WatchStep(bootsteps.StartStopStep):
    """Looks after what the slots do: time limits, frozen processes."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.lastcall_watch = None

    def start(self, worker: Any) -> None:
        prefork = pool_name(worker.pool) == "prefork"
        worker.lastcall_watch = Watch(str(worker.hostname), worker.pool, worker.app.lastcall_settings, prefork=prefork)
        worker.lastcall_watch.start()
        # Until all is over: the pool still runs when the steps are stopped.
        signals.worker_shutdown.connect(self._over, sender=worker)

    def stop(self, worker: Any) -> None:
        pass

    def terminate(self, worker: Any) -> None:
        worker.lastcall_watch.stop()

    def _over(self, sender: Any, **_: Any) -> None:
        sender.lastcall_watch.stop()


class NodeStep(bootsteps.StartStopStep):
    """Says what the worker serves, and renews the tickets that it runs."""

    requires = (ReaperStep, WatchStep)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.lastcall_node = None

    def start(self, worker: Any) -> None:
        node = worker.lastcall_node = Node(
            worker, worker.app.lastcall_settings, worker.lastcall_reaper, worker.lastcall_watch.is_frozen
        )
        node.start()
        signals.worker_ready.connect(self._ready)
        signals.worker_shutdown.connect(self._over, sender=worker)

    def close(self, worker: Any) -> None:
        worker.lastcall_node.leave()

    def stop(self, worker: Any) -> None:
        pass  # the pool has yet to finish what it runs

    def terminate(self, worker: Any) -> None:
        """Cold shutdown: the slots are killed next."""
        # In a thread, so that a server that hangs does not keep the worker.
        thread = threading.Thread(target=worker.lastcall_node.give_back, daemon=True)
        thread.start()
        thread.join(_GIVE_BACK_S)
        worker.lastcall_node.stop()

    def _ready(self, sender: Any, **_: Any) -> None:
        sender.controller.lastcall_node.look()

    def _over(self, sender: Any, **_: Any) -> None:
        sender.lastcall_node.stop()


class UntilDrainedStep(bootsteps.StartStopStep):
    """Ends the worker when the queues of --until-drained have ended."""

    requires = (NodeStep,)

    def __init__(self, worker: Any, until_drained: Sequence[str] = (), **options: Any) -> None:
        super().__init__(worker, until_drained=until_drained, **options)
        self.enabled = bool(until_drained)
        self._queues = tuple(until_drained)
        worker.lastcall_until_drained = None

    def start(self, worker: Any) -> None:
        until = worker.lastcall_until_drained = UntilDrained(worker.app.lastcall_settings, self._queues, end_worker)
        until.start()

    def stop(self, worker: Any) -> None:
        until = worker.lastcall_until_drained
        until.stop()
        if until.code is None and not worker.exitcode:
            worker.exitcode = int(Exit.STOPPED)  # 0 says that the queues are drained

    terminate = stop


class ChildrenStep(bootsteps.StartStopStep):
    """Lets a prefork worker see within 0.1 s that one of its processes has died, and come to no harm by it.

    Celery looks when the process closes its end of a pipe, a moment before the kernel lets anyone know how it ended;
    when that look comes too early, the next is up to five seconds later.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        if pool_name(worker.pool) == "prefork":
            track_the_living(worker.pool._pool)

    def stop(self, worker: Any) -> None:
        pass

    terminate = stop

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        if pool_name(worker.pool) == "prefork":
            hub.call_repeatedly(_CHILDREN_S, worker.pool.maintain_pool)


def track_the_living(pool: Any) -> None:
    """Have a prefork pool pass over a process that has died when it joins the event loop again after an outage.

    pool: Celery's AsynPool, which has given up the descriptor of such a process, and would fail for the lack of it.
    """
    track = pool._track_child_process

    def track_if_alive(process: Any, hub: Any) -> None:
        if getattr(process, "_sentinel_poll", process) is not None:
            track(process, hub)

    pool._track_child_process = track_if_alive


class NotifyStep(bootsteps.StartStopStep):
    """Serves the Celery queues of those whom this worker may tell how queues ended."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def include_if(self, consumer: Any) -> bool:
        return bool(consumer.app.lastcall_settings.notify_hosts)

    def start(self, consumer: Any) -> None:
        for host in consumer.app.lastcall_settings.notify_hosts:
            consumer.add_task_queue(notify.allowed(host).celery_queue)

    def stop(self, consumer: Any) -> None:
        pass


class PromptStep(bootsteps.StartStopStep):
    """Lets a worker without an event loop (gevent) see soon that a slot has become free, or that it is to leave.

    Celery's own loop there waits two seconds at a time, and asks for no ticket while all slots are busy.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def include_if(self, consumer: Any) -> bool:
        return consumer.hub is None

    def start(self, consumer: Any) -> None:
        connection = consumer.connection
        drain, qos = connection.drain_events, consumer.task_consumer.channel.qos

        def drain_events(timeout: float | None = None, **options: Any) -> Any:
            most = _IDLE_S if qos.can_consume() else _FULL_S
            return drain(timeout=most if timeout is None else min(most, timeout), **options)

        connection.drain_events = drain_events

    def stop(self, consumer: Any) -> None:
        pass  # the connection goes, and what was put into it with it
