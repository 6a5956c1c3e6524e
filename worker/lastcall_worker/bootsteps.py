"""What lastcall adds to a Celery worker: its threads, started and stopped with the worker.

Warm shutdown goes: close (the worker takes no more tickets), stop (the pool finishes what it runs,
whose tickets are still renewed), then the signal worker_shutdown, when all is over.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from celery import bootsteps, signals
from celery.worker import state

from lastcall_worker.node import Node
from lastcall_worker.reaper import Reaper
from lastcall_worker.request import wake_loop
from lastcall_worker.until_drained import Exit, UntilDrained

_PROMPT_S: Final = 0.1
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


class NodeStep(bootsteps.StartStopStep):
    """Says what the worker serves, and renews the tickets that it runs."""

    requires = (ReaperStep,)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.lastcall_node = None

    def start(self, worker: Any) -> None:
        node = worker.lastcall_node = Node(worker, worker.app.lastcall_settings, worker.lastcall_reaper)
        node.start()
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
        until = worker.lastcall_until_drained = UntilDrained(worker.app.lastcall_settings, self._queues, _leave)
        until.start()

    def stop(self, worker: Any) -> None:
        until = worker.lastcall_until_drained
        until.stop()
        if until.code is None and not worker.exitcode:
            worker.exitcode = int(Exit.STOPPED)  # 0 says that the queues are drained

    terminate = stop


class PromptStep(bootsteps.StartStopStep):
    """Lets a worker without an event loop (gevent) see within 0.1 s that a slot has become free.

    Celery's own loop waits two seconds at a time, and asks for no ticket while all slots are busy.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def include_if(self, consumer: Any) -> bool:
        return consumer.hub is None

    def start(self, consumer: Any) -> None:
        connection = consumer.connection
        drain, qos = connection.drain_events, consumer.task_consumer.channel.qos

        def drain_events(timeout: float | None = None, **options: Any) -> Any:
            if timeout is not None and not qos.can_consume():
                timeout = min(timeout, _PROMPT_S)
            return drain(timeout=timeout, **options)

        connection.drain_events = drain_events

    def stop(self, consumer: Any) -> None:
        pass  # the connection goes, and what was put into it with it


def _leave(code: Exit) -> None:
    """A warm shutdown, as a signal would bring about: the worker's loop looks at this."""
    if state.should_stop is None:
        state.should_stop = int(code)
    wake_loop()
