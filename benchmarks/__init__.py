"""Benchmarks: lastcall beside raw Celery and multiprocessing.Pool: `python -m benchmarks`.

harness.py starts the three and runs them in turns, report.py prints what they came to,
celery_app.py is Celery's side; the other files are one benchmark each, listed in __main__.py.
What is measured, and how: docs/benchmarks.md.
"""
