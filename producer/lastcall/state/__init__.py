"""The ledger: queues, leases and tickets in Redis. Start at ledger.py; a file in lua/ is a transition."""
