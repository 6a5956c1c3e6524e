"""The ledger: queues, leases and tickets in Redis. Start at ledger.py; each transition is a file in lua/."""
