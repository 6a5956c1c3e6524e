"""lastcall_worker: what runs where work is done, on Celery. Start at app.py; the slot is slot.py.

A worker's threads: node.py (it is alive), reaper.py (looks after queues), until_drained.py, all
started by bootsteps.py. The slot task in the worker's main process: request.py. For monitors:
events.py.

attach(app) has the workers of your own Celery app do lastcall's work, too: docs/celery.md.
"""

from lastcall_worker.attachment import attach

__all__ = ["attach"]
