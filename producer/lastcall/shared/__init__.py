"""Shared things: what several machines share by name, as processes share what multiprocessing.Manager makes.

thing.py is what all of them are; permits.py and lock.py: locks and semaphores, with leases; event.py, barrier.py;
mapping.py, sequence.py, value.py: data. manager.py makes them as multiprocessing.Manager does, Client by name. Their
scripts are those in state/lua that include _shared.
"""
