"""The demo's work: a census of the running Python's own standard library.

census.py: walk, read, parse and what they add up to, with no queue in sight; `plain()` is one loop.
table.py: the table as people and as scripts read it.
"""
