"""make chaos: random jobs under random faults, checked one by one. Start at run.py.

items.py: what workers run, and the log that says when. jobs.py: the jobs and what must hold after each; checks.py: the
comparing. parts.py: what their processes do; processes.py: how these are started, killed and seen to end. stand.py:
server and workers. storm.py: the faults. recovery.py: how long until work that was hit runs again. rival.py: raw Celery
under the same kills (rival_app.py: its app). report.py: the table.
"""
