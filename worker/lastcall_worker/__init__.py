"""lastcall_worker: what runs where work is done, on Celery. Start at app.py; the slot is slot.py.

A worker's threads: node.py (it is alive), reaper.py (looks after queues), until_drained.py, all
started by bootsteps.py. The slot task in the worker's main process: request.py. For monitors:
events.py.
"""
